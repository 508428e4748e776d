// What garbage collection costs: pushes beside a full collection, a collection after 1,000 deletes in a large registry, a cold start.
// `node test/bench/garbage.ts [push] [images] [start] [--blobs 1000000] [--manifests 1000000]`. Timings are of this machine as it is now:
// what counts is the ratio, and both sides of it are measured in one run.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { password } from '../support/process.ts'
import { blobMaker, pushImage } from './load.ts'
import { median, type Peer, startMcr } from './peers.ts'
import { firstAnswer } from './start.ts'
import { addDeadBlobs, addDeletedImages, addRepositories, withRows } from './synthetic.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { blobs: { type: 'string', default: '1000000' }, manifests: { type: 'string', default: '1000000' } },
})
const blobs = Number(values.blobs)
const manifests = Number(values.manifests)
/** Dead blobs that have files, and their bytes. */
const real = Math.min(20_000, blobs)
const size = 4_096
const clients = 4
/** How long pushes are measured without a collection, before it and after it: a 99th percentile of few is chance. */
const quietMs = 60_000

interface Run {
  id: string
  blobs_removed: number
  manifests_removed: number
  files_removed: number
  file_bytes_freed: number
  transactions: number
  writer_held_ms: number
  writer_held_max_ms: number
  phase: string
  progress: number
  error: string
  started_at: string
  completed_at: string
}

async function admin<T>(peer: Peer, method: string, path: string, body?: object): Promise<T> {
  const response = await fetch(`${peer.url}${path}`, {
    method,
    headers: { authorization: `Basic ${btoa(`admin:${password}`)}`, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
  return (await response.json()) as T
}
const status = (peer: Peer) => admin<{ running: boolean; last_run: Run }>(peer, 'GET', '/v1/gc/status')

/** Milliseconds of each image push by some clients, until `stop` says so; `times` grows with each of them. */
async function pushes(peer: Peer, stop: () => boolean, least: number, times: number[] = []): Promise<number[]> {
  const make = blobMaker(10_000)
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (times.length < least || !stop()) {
        const layer = Buffer.from(make())
        const started = performance.now()
        await pushImage(peer, 'bench/push', 'latest', layer)
        times.push(performance.now() - started)
      }
    }),
  )
  return times
}

function at(times: readonly number[], part: number): number {
  return [...times].sort((a, b) => a - b)[Math.min(times.length - 1, Math.floor(times.length * part))] as number
}
const show = (times: readonly number[]) =>
  `${times.length} pushes, p50 ${at(times, 0.5).toFixed(0)} ms, p99 ${at(times, 0.99).toFixed(0)} ms`

/** Image pushes (two blobs and a manifest) without a collection, beside a full one, and without one again. */
async function push(): Promise<void> {
  // Most of these blobs are rows alone: reading them again would find each one damaged.
  const peer = await startMcr({ MCR_STORAGE_GC_INTERVAL: '0s', MCR_STORAGE_SCRUB_CYCLE: '0s' })
  await peer.token(['bench/push'])
  await withRows(peer.dir, async (database) => {
    await addDeadBlobs(database, blobs, { real, size, dir: peer.dir })
    await database.write((sql) => sql.run('UPDATE instance SET epoch = 5'))
  })
  await pushes(peer, () => true, 100)
  const before = Date.now() + quietMs
  const quiet = await pushes(peer, () => Date.now() > before, 200)
  const started = performance.now()
  const { id } = await admin<{ id: string }>(peer, 'POST', '/v1/gc', { full: true, now: true })
  let run: Run | undefined
  let percent = 0
  let shown = 0
  const times: number[] = []
  const progress = setInterval(() => {
    if (times.length === shown) return
    console.log(`  ${((performance.now() - started) / 1000).toFixed(0)} s, ${percent} %: ${show(times.slice(shown))}`)
    shown = times.length
  }, 60_000)
  const watch = setInterval(() => {
    status(peer).then(
      ({ running, last_run }) => {
        percent = last_run.progress
        if (!running && last_run.id === id) run = last_run
      },
      () => undefined,
    )
  }, 1_000)
  const beside = await pushes(peer, () => run !== undefined, 1, times)
  clearInterval(watch)
  clearInterval(progress)
  const seconds = (performance.now() - started) / 1000
  const after = Date.now() + quietMs
  const again = await pushes(peer, () => Date.now() > after, 200)
  const quietP99 = at([...quiet, ...again], 0.99)
  console.log(`quiet before: ${show(quiet)}; quiet after: ${show(again)}`)
  console.log(`beside a full collection of ${blobs} dead blobs (${real} with files): ${show(beside)}`)
  console.log(
    `p99 ratio ${(at(beside, 0.99) / quietP99).toFixed(2)}, p50 ratio ${(at(beside, 0.5) / at([...quiet, ...again], 0.5)).toFixed(2)}`,
  )
  console.log(
    `the collection: ${seconds.toFixed(0)} s; ${run?.blobs_removed} blobs, ${run?.files_removed} files, ${run?.file_bytes_freed} bytes; ` +
      `${run?.transactions} transactions, writer held ${run?.writer_held_ms} ms in all and ${run?.writer_held_max_ms} ms at most; ${run?.error || 'no error'}`,
  )
  await peer.stop()
}

/** An ordinary collection after 1,000 images were deleted in a registry with many manifests. */
async function images(): Promise<void> {
  const peer = await startMcr({ MCR_STORAGE_GC_INTERVAL: '0s' })
  await withRows(peer.dir, async (database) => {
    await addRepositories(database, Math.ceil(manifests / 10), 10)
    await addDeletedImages(database, 'synthetic/deleted', { count: 1_000, layers: 5, size, dir: peer.dir })
    await database.write(async (sql) => {
      await sql.run('UPDATE instance SET epoch = 20')
      await sql.run(`UPDATE gc_state SET full_at = ?, rule = 'null'`, [Date.now()])
    })
  })
  const { id } = await admin<{ id: string }>(peer, 'POST', '/v1/gc', {})
  for (;;) {
    const { running, last_run: run } = await status(peer)
    if (!running && run.id === id) {
      console.log(
        `${run.manifests_removed} deleted images and ${run.blobs_removed} blobs in a registry of ${manifests} manifests: ` +
          `${((Date.parse(run.completed_at) - Date.parse(run.started_at)) / 1000).toFixed(2)} s, ${run.transactions} transactions, writer held ${run.writer_held_max_ms} ms at most`,
      )
      break
    }
    // Looked at as seldom as a person would: the collector makes way for every request.
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
  await peer.stop()
}

/** Start to first answer with many blobs as rows, beside an empty directory. */
async function start(): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'bench-start-'))
  const empty: number[] = []
  for (let round = 0; round < 5; round++) empty.push(await firstAnswer(dir))
  await withRows(dir, (database) => addDeadBlobs(database, 2 * blobs, { real: 0, size, dir }))
  const full: number[] = []
  for (let round = 0; round < 5; round++) full.push(await firstAnswer(dir))
  const line = (times: number[]) => `median ${median(times).toFixed(0)} ms of ${times.map((ms) => ms.toFixed(0)).join(' ')}`
  console.log(`cold start, empty: ${line(empty)}; with ${2 * blobs} blobs: ${line(full)}`)
  rmSync(dir, { recursive: true, force: true })
}

const parts = { images, start, push }
for (const [name, run] of Object.entries(parts)) {
  if (positionals.length > 0 && !positionals.includes(name)) continue
  console.log(`\n── ${name}`)
  await run()
}
