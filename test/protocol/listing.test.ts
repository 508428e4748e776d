import assert from 'node:assert/strict'
import { test } from 'node:test'
import { errorCode, pushImage } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry()
const tags = ['b', 'a', 'C', '_x', '1.10', '1.2', 'a-b', 'a.b', 'a_b']
for (const tag of tags) await pushImage(registry, 'l/app', tag)
const sorted = [...tags].sort()

async function pages(start: string, key: 'tags' | 'repositories'): Promise<{ all: string[]; pages: number }> {
  const all: string[] = []
  let next: string | undefined = start
  let count = 0
  while (next) {
    const response: Response = await registry.fetch('GET', next)
    assert.equal(response.status, 200)
    all.push(...((await response.json()) as Record<string, string[]>)[key]!)
    next = /^<([^>]+)>; rel="next"$/.exec(response.headers.get('link') ?? '')?.[1]
    assert.ok(count++ < 100)
  }
  return { all, pages: count }
}

test('tags come in byte order, whole or one page after another', async () => {
  assert.deepEqual(await (await registry.fetch('GET', '/v2/l/app/tags/list')).json(), { name: 'l/app', tags: sorted })
  for (const n of [1, 2, 3, 8, 9, 10, 100_000]) {
    const walked = await pages(`/v2/l/app/tags/list?n=${n}`, 'tags')
    assert.deepEqual(walked.all, sorted)
    assert.equal(walked.pages, Math.ceil(sorted.length / n))
  }
})

test('last is exclusive, whether or not it exists; n=0 is empty without a link', async () => {
  const list = async (query: string) => (await registry.fetch('GET', `/v2/l/app/tags/list?${query}`)).json()
  assert.deepEqual(await list('last=a'), { name: 'l/app', tags: sorted.filter((tag) => tag > 'a') })
  assert.deepEqual(await list('last=a0'), { name: 'l/app', tags: sorted.filter((tag) => tag > 'a0') })
  const none = await registry.fetch('GET', '/v2/l/app/tags/list?n=0')
  assert.deepEqual(await none.json(), { name: 'l/app', tags: [] })
  assert.equal(none.headers.get('link'), null)
})

test('page sizes that are no numbers are 400, huge ones are clamped (S-21)', async () => {
  for (const n of ['-1', '1e3', '', 'x', '1.5', '0x10']) {
    const response = await registry.fetch('GET', `/v2/l/app/tags/list?n=${n}`)
    assert.equal(response.status, 400, n)
    assert.equal(await errorCode(response), 'UNSUPPORTED')
  }
  assert.equal((await registry.fetch('GET', '/v2/l/app/tags/list?n=1&n=2')).status, 400)
  for (const n of ['1000000000', '9223372036854775808'])
    assert.equal((await registry.fetch('GET', `/v2/l/app/tags/list?n=${n}`)).status, 200)
})

test('the catalog: names that prefix one another, each exactly once (S-38)', async () => {
  const names = ['a', 'a-b', 'a.b', 'a/b', 'a0', 'a/b/c', 'l/app']
  for (const name of names.slice(0, -1)) await pushImage(registry, name, 'v1')
  for (const n of [1, 2, 3, 100]) {
    const { all } = await pages(`/v2/_catalog?n=${n}`, 'repositories')
    assert.deepEqual(
      all.filter((name) => names.includes(name)),
      [...names].sort(),
    )
    assert.equal(new Set(all).size, all.length)
  }
})

test('the catalog shows what the caller may pull, and an account without rules sees nothing', async () => {
  const nobody = await registry.account('nobody', [])
  const response = await registry.fetch('GET', '/v2/_catalog', { as: nobody })
  assert.equal(response.status, 200)
  assert.deepEqual(await response.json(), { repositories: [] })
})

test('an unknown repository is NAME_UNKNOWN for who may read it and denied for who may not', async () => {
  const unknown = await registry.fetch('GET', '/v2/l/none/tags/list')
  assert.equal(unknown.status, 404)
  assert.equal(await errorCode(unknown), 'NAME_UNKNOWN')
  const nobody = await registry.account('nobody2', [])
  for (const path of ['/v2/l/none/tags/list', '/v2/l/app/tags/list']) {
    const response = await registry.fetch('GET', path, { as: nobody })
    assert.equal(response.status, 403)
    assert.equal(await errorCode(response), 'DENIED')
  }
})
