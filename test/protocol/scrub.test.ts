import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Base, Ports } from '../../lib/context.ts'
import { restAfter, scrub } from '../../lib/jobs/scrub.ts'
import { blobsAfter } from '../../lib/metadata/integrity.ts'
import { openBlobsFs } from '../../runtime/blobs-fs.ts'
import { pushBlob } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'
import { damages, fileOf } from '../support/storage.ts'

const registry = await testRegistry()
const blobs = await openBlobsFs({
  layersPath: `${registry.root}/blobs`,
  uploadsPath: `${registry.root}/uploads`,
  minBytesPerSecond: 1024,
  rateWindowMs: 60_000,
})
const digests: string[] = []
for (let at = 0; at < 12; at++) digests.push(await pushBlob(registry, 'scrub/app', Buffer.alloc(64 * 1024 + at, `blob ${at}`)))

const day = 24 * 3_600_000
/** The job of one process: its own clock (which the test moves), real rows, real files. */
function processOf(clock: { now: number }, busy = () => false, bytesPerSecond = 1 << 30) {
  const logged: { event: string; digest?: string }[] = []
  const counted: Record<string, number> = {}
  const base: Pick<Base, 'now' | 'newId' | 'log' | 'count'> = {
    now: () => clock.now,
    newId: () => crypto.randomUUID(),
    log: (event) => void logged.push(event as never),
    count: (metric, _labels, by = 1) => {
      counted[metric] = (counted[metric] ?? 0) + by
    },
  }
  const ctx = { ...base, metadata: registry.database, blobs } as unknown as Base &
    Pick<Ports, 'metadata' | 'blobs' | 'limits'> &
    never
  const job = scrub({ cycleMs: 30 * day, bytesPerSecond, busy })
  const run = async (signal = new AbortController().signal) => ((await job.due?.(ctx)) ? await job.run(ctx, signal) : undefined)
  return { run, logged, counted }
}
const position = async () =>
  (await registry.database.read.all<{ position: string; blobs: number; completed_at: number | null }>('SELECT * FROM scrub'))[0]

test('everything is read within the cycle, at the pace of what is stored, and the position outlives processes', async () => {
  const clock = { now: Date.now() }
  await processOf(clock).run()
  assert.deepEqual([(await position())?.blobs, (await position())?.position], [0, ''], 'nothing is owed at first')
  let read = 0
  for (let days = 1; days <= 30 && (await position())?.completed_at === null; days++) {
    clock.now += day
    const { run } = processOf(clock)
    const report = await run()
    read += report?.blobs ?? 0
    // In time, and not long before it: a twelfth is one blob here, and the cycle aims at nine tenths of its time.
    assert.ok(read <= Math.ceil((days / 27) * 12) + 1 && read >= Math.floor((days / 30) * 12), `${read} after ${days} days`)
  }
  assert.equal(read, 12)
  assert.notEqual((await position())?.completed_at, null)
  const [entry] = await registry.database.read.all<{ detail: string }>(
    `SELECT detail FROM journal WHERE type = 'scrub_completed'`,
  )
  const { blobs: count, damaged } = JSON.parse(entry?.detail ?? '{}') as { blobs: number; damaged: number }
  assert.deepEqual([count, damaged], [12, 0])
})

test('bytes that rotted are marked with an alarm in log, metric and journal, answered as absent, and healed by the next push', async () => {
  const digest = digests[5] as string
  damages.flipped(await fileOf(registry, digest))
  assert.equal((await registry.fetch('HEAD', `/v2/scrub/app/blobs/${digest}`)).status, 200, 'nobody knows yet')
  const clock = { now: Date.now() + 120 * day }
  const { run, logged, counted } = processOf(clock)
  for (let at = 0; at < 3; at++) await run()
  assert.deepEqual(
    logged.filter(({ event }) => event === 'blob_damaged').map((event) => event.digest),
    [digest],
  )
  assert.equal(counted.blobs_suspect_total, 1)
  const entries = await registry.database.read.all(`SELECT 1 AS one FROM journal WHERE type = 'blob_damaged' AND digest = ?`, [
    digest,
  ])
  assert.equal(entries.length, 1)
  for (const method of ['HEAD', 'GET'] as const)
    assert.equal((await registry.fetch(method, `/v2/scrub/app/blobs/${digest}`)).status, 404)
  await pushBlob(registry, 'scrub/app', Buffer.alloc(64 * 1024 + 5, 'blob 5'))
  const body = await (await registry.fetch('GET', `/v2/scrub/app/blobs/${digest}`)).arrayBuffer()
  assert.deepEqual(Buffer.from(body), Buffer.alloc(64 * 1024 + 5, 'blob 5'))
})

test('a run that is stopped goes on where it was, and two processes do not count the same', async () => {
  await registry.sql(`UPDATE scrub SET position = '', blobs = 0, bytes = 0, started_at = ?`, [Date.now() - 29 * day])
  const stop = new AbortController()
  const first = processOf({ now: Date.now() }, () => {
    stop.abort()
    return false
  })
  const report = await first.run(stop.signal)
  assert.ok((report?.blobs ?? 0) < 12)
  const rows = await blobsAfter(registry.database.read, '')
  const at = (await position())?.position
  assert.ok(at === '' || rows.some(({ digest }) => digest === at))
  const [one, two] = await Promise.all([processOf({ now: Date.now() }).run(), processOf({ now: Date.now() }).run()])
  assert.ok((one?.blobs ?? 0) + (two?.blobs ?? 0) >= 12)
  const row = await position()
  assert.ok(row?.position === '' || (row?.blobs ?? 0) <= 12)
})

test('requests go first, and the disk is never read faster than the rate', () => {
  const rest = (bytesPerSecond: number, busy: boolean) => restAfter(1000, 2, { bytesPerSecond, busy })
  assert.equal(rest(Number.POSITIVE_INFINITY, true) / rest(Number.POSITIVE_INFINITY, false), 19)
  assert.equal(rest(1000, false), 998)
  assert.equal(rest(1000, true), 998)
})

test('a low rate is kept, however long its rests are, and a run that is stopped does not wait for them', async () => {
  await registry.sql(`UPDATE scrub SET position = '', blobs = 0, bytes = 0, started_at = ?`, [Date.now() - 29 * day])
  const stop = new AbortController()
  const stopMs = 6_500
  setTimeout(() => stop.abort(), stopMs)
  const began = performance.now()
  // 64 KiB a file: eight seconds each.
  const report = await processOf({ now: Date.now() }, undefined, 8 * 1024).run(stop.signal)
  const took = performance.now() - began
  assert.deepEqual([report?.blobs, took >= stopMs - 50 && took < stopMs + 1_400], [0, true], `${took} ms`)
})
