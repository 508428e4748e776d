import { change } from '../journal/change.ts'
import { blobsAfter } from '../metadata/integrity.ts'
import { storeUnreadable, verifyBlob } from '../verify/blobs.ts'
import { type Job, type JobContext, rest } from './job.ts'

const everyMs = 60_000
/** A run ends before the next is due, but never in the middle of a file. */
const runMs = 45_000
/** What looking at a file costs beside reading it, as bytes: a registry of small files has its share of the disk too. */
const lookBytes = 64 * 1024
const recountMs = 3_600_000
/** The cycle aims to be done before its time, so that a day of outage does not make it late. */
const aim = 0.9
/** Of the time that reading takes, how much is left to others: as much again when nothing goes on, most of it while requests run. */
const idleRest = 1
const busyRest = 19
/** A disk that is slow for once keeps the scrub no longer than this; the rate may. */
const shareMostMs = 5_000
/** Damaged copies that were set aside are kept this long. */
const setAsideMs = 90 * 24 * 3_600_000

interface Position {
  position: string
  startedAt: number
  blobs: number
  bytes: number
  damaged: number
}

/**
 * Reads every stored file again within `cycleMs` and compares it with its digest, at the pace that takes: what is stored, spread over the
 * cycle, at most `bytesPerSecond`, and slower while requests run here (`busy`). Its position is a row, so that it goes on where it was in
 * whichever process has it. What is damaged is marked and alarmed. `cycleMs` 0: never.
 */
export function scrub(options: { cycleMs: number; bytesPerSecond: number; busy: () => boolean }): Job {
  // Summing up millions of rows takes a second of everybody's time: once an hour is enough to know the pace.
  let total = { work: 0, countedAt: Number.NEGATIVE_INFINITY }
  async function owed(ctx: JobContext, at: Position): Promise<number> {
    if (performance.now() - total.countedAt > recountMs) total = { work: await countWork(ctx), countedAt: performance.now() }
    const elapsed = Math.max(0, ctx.now() - at.startedAt) / (options.cycleMs * aim)
    // Late: all that is left, however much has gone from what was there when it began.
    if (elapsed > 1) return Number.POSITIVE_INFINITY
    return total.work * elapsed - (at.bytes + at.blobs * lookBytes)
  }
  return {
    name: 'scrub',
    everyMs,
    async due(ctx) {
      if (options.cycleMs === 0) return false
      const at = await readPosition(ctx)
      return at === undefined || (await owed(ctx, at)) > 0
    },
    async run(ctx, signal) {
      const at = (await readPosition(ctx)) ?? (await begin(ctx))
      let left = await owed(ctx, at)
      const until = performance.now() + runMs
      const report = { blobs: 0, bytes: 0, damaged: 0 }
      const pace = paceOf(options, signal)
      let position = at.position
      try {
        for (;;) {
          const [row] = await blobsAfter(ctx.metadata.read, position, 1)
          if (!row || left <= 0 || performance.now() > until) break
          const finding = await verifyBlob(ctx, row, pace)
          if (finding === storeUnreadable) return report
          position = row.digest
          report.blobs++
          report.bytes += row.size
          if (finding?.severity === 'damage') report.damaged++
          left -= row.size + lookBytes
        }
      } catch (error) {
        if (!signal.aborted) throw error
      }
      ctx.count('scrubbed_blobs_total', {}, report.blobs)
      ctx.count('scrubbed_bytes_total', {}, report.bytes)
      await advance(ctx, at, { ...report, position })
      if ((await blobsAfter(ctx.metadata.read, position, 1)).length === 0) await complete(ctx, position)
      return report
    },
  }
}

async function readPosition(ctx: JobContext): Promise<Position | undefined> {
  const [row] = await ctx.metadata.read.all<Position>(
    `SELECT position, started_at AS startedAt, blobs, bytes, damaged FROM scrub WHERE id = 1`,
  )
  return row
}

async function begin(ctx: JobContext): Promise<Position> {
  const startedAt = ctx.now()
  await ctx.metadata.write((sql) =>
    sql.run(`INSERT INTO scrub(id, started_at) VALUES (1, ?) ON CONFLICT (id) DO NOTHING`, [startedAt]),
  )
  return { position: '', startedAt, blobs: 0, bytes: 0, damaged: 0 }
}

/** What a cycle has to do, in bytes. */
async function countWork(ctx: JobContext): Promise<number> {
  const [all] = await ctx.metadata.read.all<{ blobs: number; bytes: number }>(
    `SELECT count(*) AS blobs, coalesce(sum(size), 0) AS bytes FROM blobs`,
  )
  return (all?.bytes ?? 0) + (all?.blobs ?? 0) * lookBytes
}

/** A position that moved meanwhile was moved by another process, whose word then stands. */
async function advance(ctx: JobContext, at: Position, now: Omit<Position, 'startedAt'>): Promise<void> {
  if (now.position === at.position) return
  await ctx.metadata.write((sql) =>
    sql.run(
      `UPDATE scrub SET position = ?, blobs = blobs + ?, bytes = bytes + ?, damaged = damaged + ? WHERE id = 1 AND position = ?`,
      [now.position, now.blobs, now.bytes, now.damaged, at.position],
    ),
  )
}

async function complete(ctx: JobContext, position: string): Promise<void> {
  const done = await change(ctx, { principal: { subject: 'system:scrub' } }, async (sql, append) => {
    const [row] = await sql.all<Position>(
      `SELECT position, started_at AS startedAt, blobs, bytes, damaged FROM scrub WHERE position = ?`,
      [position],
    )
    if (!row) return false
    const { blobs, bytes, damaged } = row
    await sql.run(
      `UPDATE scrub SET position = '', started_at = ?, blobs = 0, bytes = 0, damaged = 0, completed_at = ? WHERE id = 1`,
      [ctx.now(), ctx.now()],
    )
    if (blobs > 0) append({ type: 'scrub_completed', detail: { blobs, bytes, damaged, since: row.startedAt } })
    return true
  })
  if (done) await ctx.blobs.forgetSetAside(ctx.now() - setAsideMs)
}

/** How long to wait after a piece that took `tookMs` to read: never faster than the rate, and by as much as others shall have of the disk. */
export function restAfter(
  bytes: number,
  tookMs: number,
  { bytesPerSecond, busy }: { bytesPerSecond: number; busy: boolean },
): number {
  return Math.max((bytes / bytesPerSecond) * 1000 - tookMs, Math.min(tookMs * (busy ? busyRest : idleRest), shareMostMs))
}

function paceOf(options: { bytesPerSecond: number; busy: () => boolean }, signal: AbortSignal) {
  let last = performance.now()
  return async (bytes: number): Promise<void> => {
    signal.throwIfAborted()
    const took = performance.now() - last
    await rest(restAfter(bytes, took, { bytesPerSecond: options.bytesPerSecond, busy: options.busy() }), signal)
    signal.throwIfAborted()
    last = performance.now()
  }
}
