import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { globSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { emptyJson, ociManifest, sha256 } from '../support/oci.ts'
import { password, startRegistry } from '../support/process.ts'

const library = globSync('/usr/lib/*/faketime/libfaketime.so.1')[0]
const authorization = `Basic ${btoa(`admin:${password}`)}`
const leaps = ['+3650d', '+0', '-3650d', '+0', '+30d', '-1d', '+0']
const rounds = process.env.MCR_TEST_LONG ? 12 : 1

test('the wall clock leaps by ten years and back while pushes and collections go on', {
  skip: !library && 'faketime is not installed',
}, async (t) => {
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-clock-'))
  const clock = join(scratch, 'clock')
  const set = (offset: string) => writeFileSync(clock, `${offset}\n`)
  set('+0')
  const log: string[] = []
  const registry = await startRegistry({
    onLog: (line) => log.push(line),
    env: {
      LD_PRELOAD: library as string,
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
