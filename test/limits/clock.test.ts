import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { globSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { emptyJson, ociManifest, sha256 } from '../support/oci.ts'
import { password, startRegistry } from '../support/process.ts'

const library = globSync('/usr/lib/*/faketime/libfaketime.so.1')[0]
// In CI a missing tool is a failure.
const skip = library || process.env.CI ? false : 'faketime is not installed: .ci/install-clients installs it'
const authorization = `Basic ${btoa(`admin:${password}`)}`
const leaps = ['+3650d', '+0', '-3650d', '+0', '+30d', '-1d', '+0']
const rounds = process.env.MCR_TEST_LONG ? 12 : 1

test('the wall clock leaps by ten years and back while pushes and collections go on', { skip }, async (t) => {
  assert.ok(library, 'faketime is not installed')
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-clock-'))
  const clock = join(scratch, 'clock')
  const set = (offset: string) => writeFileSync(clock, `${offset}\n`)
  set('+0')
  const log: string[] = []
  const registry = await startRegistry({
    onLog: (line) => log.push(line),
    env: {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: clock,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      MCR_STORAGE_GC_GRACE: '1h',
      MCR_LIMITS_UPLOAD_IDLE: '1h',
    },
  })
  t.after(async () => {
    await registry.remove()
    rmSync(scratch, { recursive: true, force: true })
  })
  const ask = async (method: string, path: string, body?: Uint8Array | string, headers: Record<string, string> = {}) =>
    await fetch(`${registry.url}${path}`, { method, body: body as never, headers: { authorization, ...headers } })
  const images: { tag: string; text: string; layer: string }[] = []

  async function push(tag: string): Promise<void> {
    const layer = randomBytes(5_000)
    for (const content of [layer, '{}']) {
      const put = await ask('POST', `/v2/clock/app/blobs/uploads/?digest=${sha256(content)}`, content)
      assert.equal(put.status, 201, await put.text())
    }
    const layers = [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: sha256(layer), size: layer.length }]
    const text = JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: emptyJson, layers })
    assert.equal((await ask('PUT', `/v2/clock/app/manifests/${tag}`, text, { 'content-type': ociManifest })).status, 201)
    images.push({ tag, text, layer: sha256(layer) })
  }

  async function collect(): Promise<void> {
    // 409: the leap made one due, and it is under way.
    const asked = await ask('POST', '/v1/gc', '{}', { 'content-type': 'application/json' })
    assert.ok(asked.status === 202 || asked.status === 409, await asked.text())
    for (let wait = 0; ; wait++) {
      const { running, last_run } = (await (await ask('GET', '/v1/gc/status')).json()) as {
        running?: boolean
        last_run: { error?: string }
      }
      if (!running) {
        assert.equal(last_run.error ?? '', '')
        return
      }
      assert.ok(wait < 600, 'the collection is blocked')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  const epoch = async () => Number(((await (await ask('GET', '/v1/status')).json()) as { epoch: number }).epoch)

  const before = await epoch()
  for (let round = 0; round < rounds; round++)
    for (const [index, leap] of leaps.entries()) {
      // What a push counts on while the clock leaps: an upload under way, a layer that no manifest names yet.
      const started = await ask('POST', '/v2/clock/app/blobs/uploads/')
      const location = started.headers.get('location') as string
      const half = randomBytes(1_000)
      assert.equal((await ask('PATCH', location, half)).status, 202)
      const early = randomBytes(2_000)
      assert.equal((await ask('POST', `/v2/clock/app/blobs/uploads/?digest=${sha256(early)}`, early)).status, 201)
      set(leap)
      await collect()
      await push(`r${round}-${index}`)
      assert.equal((await ask('PUT', `${location}?digest=${sha256(half)}`)).status, 201, `the upload ended by ${leap}`)
      assert.equal(
        (await ask('HEAD', `/v2/clock/app/blobs/${sha256(early)}`)).status,
        200,
        `a fresh layer was collected by ${leap}`,
      )
      for (const { tag, text, layer } of images) {
        assert.equal(await (await ask('GET', `/v2/clock/app/manifests/${tag}`)).text(), text)
        assert.equal(sha256(new Uint8Array(await (await ask('GET', `/v2/clock/app/blobs/${layer}`)).arrayBuffer())), layer)
      }
    }
  assert.equal(await epoch(), before, 'a leap is no time')
  assert.ok(log.some((line) => line.includes('"event":"clock_leapt"')) || rounds === 1)
  t.diagnostic(`${images.length} images over ${rounds * leaps.length} leaps, epoch ${before} as before`)

  // Clocks of two machines differ: half a minute is tolerated, an hour is not. Each token is new: one that was good once is remembered to its end.
  for (const [minted, used, status] of [
    ['+25', '+0', 200],
    ['+3600', '+0', 401],
    ['+0', '+3600', 401],
  ] as const) {
    set(minted)
    const { token } = (await (await ask('GET', '/v2/token?scope=repository:clock/app:pull')).json()) as { token: string }
    set(used)
    const headers = { authorization: `Bearer ${token}` }
    const pulled = await fetch(`${registry.url}/v2/clock/app/tags/list`, { headers })
    assert.equal(pulled.status, status, `made at ${minted}, used at ${used} seconds`)
  }
})

/** Two workers whose clock is what `set` says, and the events of their log. */
async function startWorkers(t: TestContext, env: Record<string, string>) {
  assert.ok(library, 'faketime is not installed')
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-clock-'))
  const set = (clock: string) => writeFileSync(join(scratch, 'clock'), `${clock}\n`)
  set('+0')
  const events: { event: string; pid?: number }[] = []
  const registry = await startRegistry({
    onLog: (line) => {
      if (line.startsWith('{')) events.push(JSON.parse(line))
    },
    env: {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: join(scratch, 'clock'),
      FAKETIME_NO_CACHE: '1',
      MCR_SERVER_WORKERS: '2',
      ...env,
    },
  })
  t.after(async () => {
    await registry.remove()
    rmSync(scratch, { recursive: true, force: true })
  })
  const pidsOf = (event: string) => events.filter((line) => line.event === event).map(({ pid }) => pid)
  return { set, pidsOf, url: registry.url }
}

test('a leap of the wall clock ends no worker', { skip }, async (t) => {
  const { set, pidsOf, url } = await startWorkers(t, { FAKETIME_DONT_FAKE_MONOTONIC: '1' })
  set('+1h')
  // More than the time between two looks at a worker.
  await sleep(12_000)
  assert.deepEqual([...pidsOf('worker_hung'), ...pidsOf('worker_ended')], [])
  assert.equal((await fetch(`${url}/readyz`)).status, 200)
})

test('a worker that answers nothing for a minute, here of a clock that runs ten times as fast, is killed and started again', {
  skip,
}, async (t) => {
  const { set, pidsOf, url } = await startWorkers(t, {})
  set('+0 x10')
  const [victim] = pidsOf('worker_serves')
  process.kill(victim as number, 'SIGSTOP')
  const started = performance.now()
  while (pidsOf('worker_serves').length < 3) {
    assert.ok(performance.now() - started < 60_000, 'it was not replaced')
    await sleep(100)
  }
  assert.deepEqual(pidsOf('worker_hung'), [victim])
  assert.deepEqual(pidsOf('worker_ended'), [victim])
  assert.ok(performance.now() - started > 4_000, 'it had no minute to answer')
  assert.equal((await fetch(`${url}/readyz`)).status, 200)
})
