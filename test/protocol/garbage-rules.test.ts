import assert from 'node:assert/strict'
import { linkSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { admin } from '../matrix/columns.ts'
import { emptyJson, ociIndex, ociManifest, pushBlob, pushImage, putManifest, sha256 } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry(
  { MCR_STORAGE_UNTAGGED_AFTER: '48h', MCR_STORAGE_UNTAGGED_REPOSITORIES: 'ci/**,rule/*', MCR_STORAGE_GC_INTERVAL: '0s' },
  ['collect-garbage'],
)
const pass = async (epochs: number) => await registry.sql('UPDATE instance SET epoch = epoch + ?', [epochs])
const get = async (path: string) => (await registry.fetch('GET', path)).status

interface Run {
  id: string
  manifests_removed: number
  links_removed: number
  blobs_removed: number
  bytes_freed: number
  file_bytes_shared: number
  failures: number
  full: boolean
  phase: string
  error: string
}
const status = async () =>
  (await admin(registry, 'GET', '/v1/gc/status')) as unknown as { running: boolean; queue: number; last_run: Run }
const ask = async (options: object) => ((await admin(registry, 'POST', '/v1/gc', options)) as unknown as { id: string }).id
async function settled(id: string): Promise<Run> {
  for (let wait = 0; wait < 1_200; wait++) {
    const { running, last_run } = await status()
    if (last_run.id === id && !running) return last_run
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('the collection did not end')
}
const collect = async (options: object = {}) => await settled(await ask(options))
const findings = async () =>
  (
    (await admin(registry, 'GET', '/v1/gc/findings?n=1000')) as unknown as {
      findings: { kind: string; repository: string; digest: string; why: string; size: number; shared: number }[]
    }
  ).findings

const image = (note: string, extra: object = {}) =>
  JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: emptyJson, layers: [], annotations: { note }, ...extra })
const push = async (name: string, reference: string, text: string, type = ociManifest) => {
  await pushBlob(registry, name, '{}')
  const response = await putManifest(registry, name, reference === '' ? sha256(text) : reference, text, type)
  assert.equal(response.status, 201, await response.text())
  return sha256(text)
}
const indexOf = (...texts: string[]) =>
  JSON.stringify({
    schemaVersion: 2,
    mediaType: ociIndex,
    manifests: texts.map((text) => ({ mediaType: ociManifest, digest: sha256(text), size: text.length })),
  })
const subjectOf = (text: string) => ({ subject: { mediaType: ociManifest, digest: sha256(text), size: text.length } })

test('untagged manifests go by rule: never a child of a kept index, never a signature of what is kept, nor a signature of that', async () => {
  const name = 'ci/app'
  const child = image('child')
  const loose = image('loose')
  const tagged = image('tagged')
  const signature = image('signature', subjectOf(tagged))
  const countersignature = image('countersignature', subjectOf(signature))
  const orphan = image('signature of the loose', subjectOf(loose))
  for (const text of [child, loose, signature, countersignature, orphan]) await push(name, '', text)
  await push(name, 'v1', tagged)
  const index = indexOf(child)
  await push(name, 'multi', index, ociIndex)
  await push('other/app', '', loose)
  await pass(2)
  assert.equal((await collect()).manifests_removed, 0, 'two epochs are not yet 48 hours')
  await pass(3)
  const foreseen = await collect({ dry_run: true })
  const expected = [loose, orphan].map(sha256).sort()
  assert.deepEqual(
    (await findings()).filter(({ kind }) => kind === 'manifest').map(({ digest }) => digest),
    expected,
  )
  const run = await collect()
  assert.deepEqual([foreseen.manifests_removed, run.manifests_removed], [2, 2])
  for (const text of [loose, orphan]) assert.equal(await get(`/v2/${name}/manifests/${sha256(text)}`), 404)
  for (const text of [child, tagged, signature, countersignature, index])
    assert.equal(await get(`/v2/${name}/manifests/${sha256(text)}`), 200)
  assert.equal(await get(`/v2/other/app/manifests/${sha256(loose)}`), 200, 'the rule is for ci/**')

  // Untagged just now, an image that was tagged for long has its whole grace; then everything below goes in one run.
  const deleted = (await admin(registry, 'DELETE', `/v1/repositories/${name}/-/tags/multi`)) as unknown as { free_after?: string }
  assert.ok(deleted.free_after, 'the rule says when')
  await pass(2)
  assert.equal((await collect()).manifests_removed, 0)
  await pass(3)
  assert.equal((await collect()).manifests_removed, 2, 'the index and its child')
  assert.equal(await get(`/v2/${name}/manifests/${sha256(child)}`), 404)
})

test('a layer that a push was told is there outlives the untagged image that held it', async () => {
  const layer = 'of an old build and of the next'
  const { digest } = await pushImage(registry, 'ci/next', 'latest', { layers: [layer] })
  await pushImage(registry, 'ci/next', 'latest', { layers: ['of another build'] })
  await pass(9)
  assert.equal((await registry.fetch('HEAD', `/v2/ci/next/blobs/${sha256(layer)}`)).status, 200)
  await collect()
  assert.equal(await get(`/v2/ci/next/manifests/${digest}`), 404, 'the old build is untagged and cold')
  const layers = [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: sha256(layer), size: layer.length }]
  const next = await putManifest(registry, 'ci/next', 'latest', image('the next build', { layers }))
  assert.equal(next.status, 201, await next.text())
})

test('an ordinary run looks at what the queue names; a full one at everything', async () => {
  const layer = await pushBlob(registry, 'plain/app', 'nobody needs this')
  await pass(3)
  await registry.sql(`DELETE FROM gc_queue`)
  await collect()
  assert.equal(await get(`/v2/plain/app/blobs/${layer}`), 200, 'the queue did not name it')
  const run = await collect({ full: true })
  assert.ok(run.full && run.blobs_removed >= 1)
  assert.equal(await get(`/v2/plain/app/blobs/${layer}`), 404)
})

test('a dry run names each thing and why, to the byte, and tells apart what a snapshot keeps', async () => {
  const mine = ['alone on the disk', 'a snapshot has it too']
  const { digest } = await pushImage(registry, 'dry/app', 'v1', { layers: mine })
  const file = readdirSync(join(registry.root, 'blobs'), { recursive: true })
    .map(String)
    .find((name) => name.includes(sha256(mine[1] as string).slice(7)))
  linkSync(join(registry.root, 'blobs', file as string), join(registry.root, 'snapshot'))
  const answer = (await admin(registry, 'DELETE', `/v1/repositories/dry/app/-/manifests/${digest}`)) as unknown as {
    released: number
    freed_now: number
    free_after: string
  }
  const both = (mine[0] as string).length + (mine[1] as string).length
  assert.deepEqual([answer.freed_now, answer.released], [0, both])
  assert.ok(Date.parse(answer.free_after) > Date.now() + 7 * 86_400_000)
  await pass(3)
  const foreseen = await collect({ dry_run: true, now: true })
  assert.deepEqual([foreseen.bytes_freed, foreseen.file_bytes_shared], [(mine[0] as string).length, (mine[1] as string).length])
  const found = (await findings()).map(({ kind, repository, why, size, shared }) => [kind, repository, why, size, shared])
  assert.deepEqual(
    found.filter(([kind]) => kind === 'manifest'),
    [['manifest', 'dry/app', 'deleted', 0, 0]],
  )
  assert.deepEqual(
    found
      .filter(([kind]) => kind === 'blob')
      .map(([, , why, size, shared]) => [why, size, shared])
      .sort(),
    [
      ['no repository has it', 0, (mine[1] as string).length],
      ['no repository has it', (mine[0] as string).length, 0],
    ].sort(),
  )
  const run = await collect({ now: true })
  assert.equal(run.bytes_freed, both)
  assert.equal(run.file_bytes_shared, (mine[1] as string).length)
  const why = (await admin(registry, 'GET', `/v1/digests/${sha256(mine[0] as string)}`)) as unknown as {
    state: string
    freed_by: string
    free_since: string
  }
  assert.equal(why.state, 'collected')
  assert.match(why.freed_by, new RegExp(run.id))
})

test('where a rule collects untagged manifests, the delete of a tag says in headers what goes with it and when', async () => {
  await pushImage(registry, 'rule/tag', 'keeps-the-config')
  await pushImage(registry, 'rule/tag', 'v1', { layers: ['goes with its tag'] })
  const { headers } = await registry.fetch('DELETE', '/v2/rule/tag/manifests/v1')
  assert.deepEqual(
    ['mcr-freed-now', 'mcr-released'].map((name) => headers.get(name)),
    ['0', String('goes with its tag'.length)],
  )
  assert.ok(Date.parse(headers.get('mcr-free-after') as string) > Date.now() + 2 * 86_400_000)
})

test('one thing that cannot be collected keeps no other', async () => {
  for (const name of ['bad/one', 'bad/two']) await pushBlob(registry, name, `in ${name}`)
  await pass(3)
  await registry.sql(
    `CREATE TRIGGER broken BEFORE DELETE ON repo_blobs WHEN OLD.digest = '${sha256('in bad/one')}' BEGIN SELECT RAISE(ABORT, 'broken'); END`,
  )
  const run = await collect()
  assert.equal(run.failures, 1)
  assert.match(run.error, /1 could not be collected, the first: link sha256:[0-9a-f]+: .*broken/)
  assert.equal(await get(`/v2/bad/one/blobs/${sha256('in bad/one')}`), 200)
  assert.equal(await get(`/v2/bad/two/blobs/${sha256('in bad/two')}`), 404)
  await registry.sql('DROP TRIGGER broken')
  assert.equal((await collect()).error, '')
  assert.equal(await get(`/v2/bad/one/blobs/${sha256('in bad/one')}`), 404)
})

test('one repository alone is collected; the rest stays', async () => {
  for (const name of ['here/app', 'there/app']) await pushBlob(registry, name, `in ${name}`)
  await pass(3)
  const run = await collect({ repository: 'here/app' })
  assert.deepEqual([run.links_removed, run.blobs_removed], [1, 1])
  assert.equal(await get(`/v2/there/app/blobs/${sha256('in there/app')}`), 200)
  assert.equal(
    (
      await registry.fetch('POST', '/v1/gc', {
        body: '{"repository":"none/such"}',
        headers: { 'content-type': 'application/json' },
      })
    ).status,
    404,
  )
})

test('paused, nothing is removed: a run waits, a new one is 409; resumed, it goes on', async () => {
  const layer = await pushBlob(registry, 'pause/app', 'waits')
  await pass(3)
  // Paused between the question and the first look of the run.
  await registry.sql(`UPDATE gc_state SET paused_by = 'somebody', paused_at = 1`)
  await registry.sql(
    `INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window) VALUES ('paused', 'collect', ?, 'test', 0, 0)`,
    [Date.now()],
  )
  for (let wait = 0; wait < 600 && (await status()).last_run.phase !== 'paused'; wait++)
    await new Promise((resolve) => setTimeout(resolve, 50))
  assert.equal((await status()).last_run.phase, 'paused')
  assert.equal(await get(`/v2/pause/app/blobs/${layer}`), 200)
  const refused = await registry.fetch('POST', '/v1/gc', { body: '{}', headers: { 'content-type': 'application/json' } })
  assert.equal(refused.status, 409)
  assert.match(await refused.text(), /gc resume/)
  await admin(registry, 'POST', '/v1/gc/resume', {})
  assert.equal((await settled('paused')).error, '')
  assert.equal(await get(`/v2/pause/app/blobs/${layer}`), 404)
})

test('a full run takes the names of pushes that never came to anything, older than the window; no other', async () => {
  const begin = async (name: string) =>
    (await registry.fetch('POST', `/v2/${name}/blobs/uploads/`)).headers.get('location') as string
  for (const name of ['never/one', 'never/two', 'never/young'])
    assert.equal((await registry.fetch('DELETE', await begin(name))).status, 204)
  const open = await begin('never/open')
  await pushBlob(registry, 'never/pushed', 'a blob')
  await registry.sql(`UPDATE repositories SET created_at = 1 WHERE name LIKE 'never/%' AND name <> 'never/young'`)
  const names = async () =>
    (
      await registry.database.read.all<{ name: string }>(`SELECT name FROM repositories WHERE name LIKE 'never/%' ORDER BY name`)
    ).map(({ name }) => name.slice(6))
  await collect()
  assert.deepEqual(await names(), ['one', 'open', 'pushed', 'two', 'young'], 'an ordinary run looks at no name')
  await collect({ full: true, dry_run: true })
  assert.equal((await names()).length, 5)
  assert.equal((await collect({ full: true })).error, '')
  assert.deepEqual(await names(), ['open', 'pushed', 'young'])
  // Both go on: the upload under way, and a name that was forgotten.
  const digest = sha256('late')
  assert.equal((await registry.fetch('PUT', `${open}?digest=${digest}`, { body: 'late' })).status, 201)
  await pushBlob(registry, 'never/one', 'late')
  assert.equal(await get(`/v2/never/one/blobs/${digest}`), 200)
})
