import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, globSync, openSync, rmSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { mountLoop, noLoop } from '../support/loop.ts'
import { emptyJson, ociManifest, sha256 } from '../support/oci.ts'
import { password, startRegistry } from '../support/process.ts'

const rounds = process.env.MCR_TEST_LONG ? 50 : 3
const mebibyte = 2 ** 20
const basic = `Basic ${btoa(`admin:${password}`)}`

interface Image {
  layer: string
  text: string
  bytes: number
}

/** Something else on the disk that takes what is free, but for `leave` bytes. */
function fill(path: string, free: () => number, leave: number): void {
  const fd = openSync(path, 'w')
  const piece = Buffer.alloc(mebibyte, 1)
  try {
    while (free() > leave) writeSync(fd, piece, 0, Math.min(mebibyte, Math.max(4096, free() - leave)))
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOSPC') throw error
  } finally {
    closeSync(fd)
  }
}

test(`a disk that fills and is freed, ${rounds} times: no false success, reads never fail, deletes free space, no restart`, {
  skip: noLoop,
}, async (t) => {
  const disk = mountLoop(192)
  const events = new Set<string>()
  const registry = await startRegistry({
    onLog: (line) => events.add(/"event":"(\w+)"/.exec(line)?.[1] ?? ''),
    env: {
      MCR_STORAGE_ROOT: join(disk.path, 'data'),
      MCR_STORAGE_FREE_FLOOR: '8MiB',
      MCR_STORAGE_BALLAST: '16MiB',
      TMPDIR: disk.path,
    },
  })
  const database = await openDatabaseFile(join(disk.path, 'data/mcr.db'), { onFatal: (error) => assert.fail(error) })
  t.after(async () => {
    await database.close()
    await registry.stop()
    disk.remove()
  })
  const { pid } = registry
  const ask = async (method: string, path: string, body?: Uint8Array | string, headers: Record<string, string> = {}) =>
    await fetch(`${registry.url}${path}`, { method, body: body as never, headers: { authorization: basic, ...headers } })

  const images = new Map<string, Image>()
  const counts = { pushed: 0, refused: 0, reads: 0, deletes: 0, collections: 0, freed: 0 }
  const filesOf = (digest: string) => globSync(join(disk.path, 'data/blobs/sha256', digest.slice(7, 9), `${digest.slice(7)}.*`))
  const ballast = () => statSync(join(disk.path, 'data/ballast')).size
  let next = 0

  /** A whole image. Shape: the status that ended it: 201, or the 507 of whichever step was refused. */
  async function push(bytes: number): Promise<number> {
    const layer = randomBytes(bytes)
    const layerDigest = sha256(layer)
    for (const content of [layer, '{}']) {
      const status = await put('POST', `/v2/full/app/blobs/uploads/?digest=${sha256(content)}`, content)
      if (status !== 201) return status
    }
    const tag = `t${next++}`
    const text = JSON.stringify({
      schemaVersion: 2,
      mediaType: ociManifest,
      config: emptyJson,
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: layerDigest, size: bytes }],
      annotations: { tag, padding: 'x'.repeat(20_000) },
    })
    const status = await put('PUT', `/v2/full/app/manifests/${tag}`, text, { 'content-type': ociManifest })
    if (status === 201) images.set(tag, { layer: layerDigest, text, bytes })
    return status
  }

  async function put(method: string, path: string, body: Uint8Array | string, headers?: Record<string, string>): Promise<number> {
    const response = await ask(method, path, body, headers)
    const text = await response.text()
    if (response.status === 507) {
      assert.match(text, /"code":"UNAVAILABLE","message":"the registry is full/)
      assert.ok(response.headers.get('retry-after'))
      counts.refused++
    } else assert.equal(response.status, 201, text)
    if (response.status === 201) counts.pushed++
    return response.status
  }

  async function readBack(): Promise<void> {
    const [next] = images.keys()
    for (const [tag, { layer, text }] of images) {
      const manifest = await ask('GET', `/v2/full/app/manifests/${tag}`)
      assert.equal(await manifest.text(), text)
      const blob = await ask('GET', `/v2/full/app/blobs/${layer}`)
      assert.equal(sha256(new Uint8Array(await blob.arrayBuffer())), layer)
      counts.reads += 2
      // HEAD keeps a layer for a push that may follow, so the one that is deleted next is not asked for like this.
      if (tag === next) continue
      assert.equal((await ask('HEAD', `/v2/full/app/blobs/${layer}`)).status, 200)
      counts.reads++
    }
    for (const path of [
      '/v2/full/app/tags/list',
      '/v2/_catalog',
      '/v2/token?scope=repository:full/app:pull',
      '/v1/status',
      '/readyz',
    ])
      assert.equal((await ask('GET', path)).status, 200, path)
  }

  async function collect(): Promise<void> {
    const asked = await ask('POST', '/v1/gc', JSON.stringify({ now: true }), { 'content-type': 'application/json' })
    assert.equal(asked.status, 202, await asked.text())
    for (let wait = 0; ; wait++) {
      const status = (await (await ask('GET', '/v1/gc/status')).json()) as { running?: boolean }
      if (!status.running) break
      assert.ok(wait < 600, 'the collection does not end')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    counts.collections++
  }

  async function pushesAgain(): Promise<void> {
    for (let wait = 0; (await push(50_000)) !== 201; wait++) {
      assert.ok(wait < 200, 'pushes do not go on')
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }

  const filler = join(disk.path, 'filler')
  await pushesAgain()
  await readBack()
  // A job makes the reserve a few seconds after the start.
  for (let wait = 0; !existsSync(join(disk.path, 'data/ballast')); wait++) {
    assert.ok(wait < 600, 'no ballast')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  for (let round = 0; round < rounds; round++) {
    // The registry's own pushes stop at the floor.
    for (let more = 0; more < 4; more++) await push(1 + Math.floor(Math.random() * 3 * mebibyte))
    // Something else fills the rest: to the last byte, into the middle of a commit, or just below the floor.
    // Days pass: what is deleted from now on is no longer kept for whoever pushed it.
    await database.write((sql) => sql.run('UPDATE instance SET epoch = epoch + 3'))
    const leave = [0, 40_000, 300_000, 6 * mebibyte][round % 4] as number
    fill(filler, disk.free, leave)
    const statuses = await Promise.all(Array.from({ length: 8 }, () => push(200_000)))
    assert.ok(statuses.includes(507), `nothing was refused with ${disk.free()} bytes free`)
    await readBack()
    // Full to the last byte, but for the reserve: a delete needs it. Where it was taken before, its space is what is free.
    if (ballast() > 0) {
      fill(join(disk.path, 'filler2'), disk.free, 0)
      // A write that failed while it was filled took it, and then so did the filler.
      if (ballast() === 0) rmSync(join(disk.path, 'filler2'))
    }
    const [victim] = images.keys()
    const { layer, text, bytes } = images.get(victim as string) as Image
    assert.equal(filesOf(layer).length, 1)
    const deleted = await ask('DELETE', `/v2/full/app/manifests/${sha256(text)}`)
    assert.equal(deleted.status, 202, await deleted.text())
    images.delete(victim as string)
    counts.deletes++
    await collect()
    await readBack()
    // Free bytes alone would not show it: the log of the database takes some meanwhile.
    assert.deepEqual(filesOf(layer), [], 'the file of what was deleted and collected is there')
    counts.freed += bytes
    if (round % 4 === 1) {
      // Something even takes what the reserve gave: then nothing can be deleted, but everything can be read, and it comes back.
      fill(join(disk.path, 'filler2'), disk.free, 0)
      await readBack()
    }
    rmSync(join(disk.path, 'filler2'), { force: true })
    rmSync(filler)
    await pushesAgain()
    await readBack()
    assert.equal(registry.pid, pid, 'no restart')
  }
  for (const event of ['storage_full', 'storage_room', 'ballast_dropped', 'ballast_made']) assert.ok(events.has(event), event)
  t.diagnostic(JSON.stringify({ rounds, images: images.size, ...counts }))
  await registry.restart('SIGKILL')
  await readBack()
})
