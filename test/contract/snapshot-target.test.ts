// A directory of snapshots that several runs use at once, or that a run left in the middle.
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import fs from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { Digest } from '../../lib/oci/digest.ts'
import { blobName, formatLine, names, snapshotId } from '../../runtime/snapshot/format.ts'
import { listSnapshots } from '../../runtime/snapshot/prune.ts'
import { directoryTarget } from '../../runtime/snapshot/target.ts'

const place = mkdtempSync(join(tmpdir(), 'mcr-target-'))
after(() => rmSync(place, { recursive: true, force: true }))
const digest = (fill: string) => `sha256:${fill.repeat(64)}` as Digest
let made = 0

/** A snapshot of one file, up to its end. */
async function begin(root: string, fill: string, keep: number) {
  const target = await directoryTarget(root, snapshotId(++made, crypto.randomUUID()), keep)
  const file = { digest: digest(fill), inc: fill, size: 3, damaged: false }
  const source = join(place, `${fill}.file`)
  writeFileSync(source, 'abc')
  await target.bring(source, blobName(file.digest, file.inc), file.size)
  writeFileSync(join(target.work, names.list), formatLine(file))
  return { finish: () => target.finish(), path: join(root, 'blobs', blobName(file.digest, file.inc)) }
}

/** Puts something before or in place of a call of the file system. Shape: what takes it back. */
function instead(
  name: 'readdir' | 'rm',
  make: (real: (...args: never[]) => Promise<never>) => (path: string) => Promise<unknown>,
) {
  const real = fs[name]
  Object.assign(fs, { [name]: make(real as never) })
  syncBuiltinESMExports()
  return () => {
    Object.assign(fs, { [name]: real })
    syncBuiltinESMExports()
  }
}

test('what a run brings while another one prunes stays', async () => {
  const root = join(place, 'both')
  const first = await begin(root, '1', 1)
  let second: ReturnType<typeof begin> | undefined
  const restore = instead('readdir', (real) => async (path, ...more) => {
    if (second === undefined && path === join(root, 'blobs', 'sha256', '00')) {
      second = begin(root, '2', 1)
      await Promise.race([second, new Promise((resolve) => setTimeout(resolve, 500))])
    }
    return await real(...([path, ...more] as never[]))
  })
  await first.finish()
  restore()
  const { path, finish } = await (second as unknown as ReturnType<typeof begin>)
  assert.ok(existsSync(path))
  await finish()
  assert.deepEqual([existsSync(path), existsSync(first.path), (await listSnapshots(root)).length], [true, false, 1])
  assert.equal(readdirSync(join(root, 'snapshots')).length, 1, 'nothing else is left there')
})

test('runs that end at the same moment end well', async () => {
  for (let round = 0; round < 5; round++) {
    const root = join(place, `same-${round}`)
    for (const fill of ['1', '2', '3', '4']) await (await begin(root, fill, 9)).finish()
    const runs = [await begin(root, '5', 1), await begin(root, '6', 1)]
    await Promise.all(runs.map(({ finish }) => finish()))
    assert.ok(existsSync(runs[1]?.path ?? ''))
  }
})

test('a snapshot whose removal was cut is none, and keeps no later one from its end', async () => {
  const root = join(place, 'cut')
  for (const fill of ['1', '2']) await (await begin(root, fill, 9)).finish()
  const third = await begin(root, '3', 1)
  const restore = instead('rm', (real) => async (path, ...more) => {
    if (!path.includes('snapshots')) return await real(...([path, ...more] as never[]))
    // The list goes first; then the power.
    if (existsSync(join(path, names.list))) rmSync(join(path, names.list))
    throw new Error('killed')
  })
  await assert.rejects(third.finish(), /killed/)
  restore()
  rmSync(join(root, 'snapshots', 'pruning'), { recursive: true, force: true })
  await (await begin(root, '4', 9)).finish()
  for (const id of await listSnapshots(root)) assert.ok(existsSync(join(root, 'snapshots', id, names.list)), id)
})
