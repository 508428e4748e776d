import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { request } from 'node:http'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { after, test } from 'node:test'
import { emptyJson, ociManifest, sha256 } from '../support/oci.ts'
import { password, type RegistryProcess, startRegistry } from '../support/process.ts'

const long = process.env.MCR_TEST_LONG !== undefined
const authorization = `Basic ${btoa(`admin:${password}`)}`
const settings = { MCR_LIMITS_UPLOADS_PER_PRINCIPAL: '100000' }
const log: string[] = []
const heard = (line: string) => void log.push(line)

/** Processes that know nothing of each other but the data directory; one of them lives in a time namespace ten days ahead. */
const first = await startRegistry({ env: settings, onLog: heard })
const data = { MCR_STORAGE_ROOT: first.dir, ...settings }
const ahead = ['unshare', '-T', '--fork', '--kill-child', '--monotonic', '864000', '--boottime', '864000']
const others = await Promise.all([
  startRegistry({ env: data, onLog: heard }),
  startRegistry({ env: data, onLog: heard, through: process.getuid?.() === 0 ? ahead : [] }),
])
const processes = [first, ...others] as [RegistryProcess, RegistryProcess, RegistryProcess]
after(async () => {
  for (const one of others) await one.stop('SIGKILL')
  await first.remove()
})
let turn = 0
const any = () => processes[turn++ % processes.length] as RegistryProcess

async function ask(method: string, path: string, body?: Uint8Array | string, at = any(), headers: Record<string, string> = {}) {
  const response = await fetch(`${at.url}${path}`, { method, body: body as never, headers: { authorization, ...headers } })
  return { status: response.status, headers: response.headers, text: await response.text() }
}
const manifestOf = (layers: readonly Uint8Array[], extra: object = {}) =>
  JSON.stringify({
    schemaVersion: 2,
    mediaType: ociManifest,
    config: emptyJson,
    layers: layers.map((layer) => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      digest: sha256(layer),
      size: layer.length,
    })),
    ...extra,
  })
const pushBlob = async (name: string, content: Uint8Array | string, at = any()) =>
  await ask('POST', `/v2/${name}/blobs/uploads/?digest=${sha256(content)}`, content, at)
const putManifest = async (name: string, tag: string, text: string, at = any()) =>
  await ask('PUT', `/v2/${name}/manifests/${tag}`, text, at, { 'content-type': ociManifest })

test('32 first pushes at once of the same layers to a repository nobody made, over three processes: only 2xx', async (t) => {
  const rounds = long ? 500 : 1
  const statuses: Record<number, number> = {}
  for (let round = 0; round < rounds; round++) {
    const layers = [randomBytes(1000), randomBytes(2000), Buffer.from('{}')]
    const name = `first/r${round}`
    await Promise.all(
      Array.from({ length: 32 }, async () => {
        for (const layer of layers) note(await pushBlob(name, layer))
        note(await putManifest(name, 'latest', manifestOf(layers.slice(0, 2))))
      }),
    )
  }
  function note({ status, text }: { status: number; text: string }) {
    assert.equal(status, 201, text)
    statuses[status] = (statuses[status] ?? 0) + 1
  }
  t.diagnostic(JSON.stringify({ rounds, statuses }))
})

test('whatever one process answered, every other one knows at its next request', async () => {
  await pushBlob('own/app', '{}')
  for (let round = 0; round < (long ? 500 : 10); round++) {
    const [writer, reader, other] = [any(), any(), any()]
    const text = manifestOf([], { annotations: { round: String(round) } })
    assert.equal((await putManifest('own/app', 'moving', text, writer)).status, 201)
    assert.equal((await ask('GET', '/v2/own/app/manifests/moving', undefined, reader)).text, text)
    assert.equal((await ask('DELETE', '/v2/own/app/manifests/moving', undefined, reader)).status, 202)
    assert.equal((await ask('GET', '/v2/own/app/manifests/moving', undefined, other)).status, 404)
  }
})

test('many clients of all processes write at once: nobody sees the lock but as time', async (t) => {
  await pushBlob('lock/app', '{}')
  const statuses: Record<number, number> = {}
  const clients = long ? 200 : 40
  await Promise.all(
    Array.from({ length: clients }, async (_, client) => {
      for (let round = 0; round < (long ? 20 : 4); round++) {
        const { status, text } = await putManifest(
          'lock/app',
          `c${client}`,
          manifestOf([], { annotations: { client: String(client), round: String(round) } }),
        )
        statuses[status] = (statuses[status] ?? 0) + 1
        assert.ok(status === 201 || status === 503, text)
      }
    }),
  )
  t.diagnostic(JSON.stringify({ clients, statuses }))
  assert.equal((await ask('GET', '/v2/lock/app/tags/list?n=1000')).text.match(/"c[0-9]+"/g)?.length, clients)
})

test('a lock that somebody keeps for longer than ten seconds is 503 with Retry-After; reads go on; then everything does', async () => {
  const holder = new DatabaseSync(join(first.dir, 'mcr.db'))
  holder.exec('BEGIN IMMEDIATE')
  const waiting = Promise.all(Array.from({ length: 6 }, async () => await pushBlob('held/app', randomBytes(100))))
  for (let round = 0; round < 10; round++) {
    assert.equal((await ask('GET', '/v2/lock/app/tags/list?n=1')).status, 200)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  for (const { status, headers, text } of await waiting) {
    assert.equal(status, 503, text)
    assert.equal(JSON.parse(text).errors[0].code, 'UNAVAILABLE')
    assert.equal(headers.get('retry-after'), '1')
  }
  assert.ok(log.some((line) => line.includes('"event":"limit_reached"') && line.includes('"limit":"database_lock"')))
  holder.exec('ROLLBACK')
  holder.close()
  assert.equal((await pushBlob('held/app', 'afterwards')).status, 201)
})

test("the database's log stays under 64 MiB while 50 clients stream and more than twice that is written", async (t) => {
  const layer = randomBytes(8 * 2 ** 20)
  await pushBlob('wal/app', layer, first)
  const streams = Array.from({ length: 50 }, () => {
    const { port } = new URL(any().url)
    const req = request({
      host: '127.0.0.1',
      port,
      path: `/v2/wal/app/blobs/${sha256(layer)}`,
      headers: { authorization },
      agent: false,
    })
    req.on('response', (res) => {
      res.on('readable', () => undefined)
      const timer = setInterval(() => res.read(64 * 1024), 500)
      res.on('close', () => clearInterval(timer))
    })
    req.on('error', () => undefined)
    req.end()
    return req
  })
  await pushBlob('wal/app', '{}')
  const padding = 'x'.repeat(3 * 2 ** 20)
  let written = 0
  let most = 0
  const { statSync } = await import('node:fs')
  const pushes = long ? 400 : 48
  let next = 0
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      while (next < pushes) {
        const text = manifestOf([], { annotations: { padding, index: String(next++) } })
        assert.equal((await putManifest('wal/app', 'big', text)).status, 201)
        written += text.length
        most = Math.max(most, statSync(join(first.dir, 'mcr.db-wal')).size)
      }
    }),
  )
  for (const req of streams) req.destroy()
  t.diagnostic(`${Math.round(written / 2 ** 20)} MiB of manifests, the log had ${Math.round(most / 2 ** 20)} MiB at most`)
  assert.ok(written > 2 * 64 * 2 ** 20)
  assert.ok(most < 64 * 2 ** 20, `${most} bytes`)
  assert.match((await ask('GET', '/metrics')).text, /mcr_database_wal_bytes [0-9]/)
})

test('pages list everything that was there throughout exactly once, while others come and go', async (t) => {
  const count = long ? 2_000 : 120
  const text = manifestOf([])
  await pushBlob('page/app', '{}')
  const stable = Array.from({ length: count }, (_, index) => `s${String(index * 7).padStart(6, '0')}`)
  for (let at = 0; at < stable.length; at += 40)
    await Promise.all(
      stable.slice(at, at + 40).map(async (tag) => assert.equal((await putManifest('page/app', tag, text)).status, 201)),
    )
  let writing = true
  let changes = 0
  const writers = Array.from({ length: 3 }, async () => {
    while (writing) {
      const tag = `s${String(Math.floor(Math.random() * count * 7)).padStart(6, '0')}x`
      assert.equal((await putManifest('page/app', tag, text)).status, 201)
      await ask('DELETE', `/v2/page/app/manifests/${tag}`)
      const name = `page/extra${changes++}`
      await pushBlob(name, '{}')
      assert.equal((await putManifest(name, 'v', text)).status, 201)
    }
  })
  for (let round = 0; round < 3; round++) {
    const seen: string[] = []
    for (let path: string | undefined = '/v2/page/app/tags/list?n=7'; path; ) {
      const answer: Awaited<ReturnType<typeof ask>> = await ask('GET', path)
      seen.push(...(JSON.parse(answer.text) as { tags: string[] }).tags)
      path = /<([^>]+)>/.exec(answer.headers.get('link') ?? '')?.[1]
    }
    assert.equal(new Set(seen).size, seen.length, 'twice')
    assert.deepEqual(
      seen.filter((tag) => !tag.endsWith('x')),
      stable,
    )
    const names: string[] = []
    for (let path: string | undefined = '/v2/_catalog?n=3'; path; ) {
      const answer: Awaited<ReturnType<typeof ask>> = await ask('GET', path)
      names.push(...(JSON.parse(answer.text) as { repositories: string[] }).repositories)
      path = /<([^>]+)>/.exec(answer.headers.get('link') ?? '')?.[1]
    }
    assert.equal(new Set(names).size, names.length, 'twice')
    for (const name of ['page/app', 'wal/app', 'lock/app', 'own/app']) assert.ok(names.includes(name), name)
  }
  writing = false
  await Promise.all(writers)
  t.diagnostic(`${changes} repositories came meanwhile`)
})
