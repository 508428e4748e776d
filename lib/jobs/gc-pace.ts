import { type Append, change } from '../journal/change.ts'
import { isMetadataError } from '../metadata/errors.ts'
import type { Candidate } from '../metadata/garbage.ts'
import type { GarbageKind, Source } from '../metadata/garbage-queue.ts'
import { type GcCounts, type GcRun, isPaused, noteRun } from '../metadata/gc-runs.ts'
import type { Sql } from '../metadata/sql.ts'
import type { Digest } from '../oci/digest.ts'
import { type JobContext, rest } from './job.ts'

/** One transaction takes this many things at most. */
const together = 256
/**
 * A transaction begins no more after `heldMs`: requests wait for the writer and the event loop. Each millisecond of it, its commit included, has
 * `rest` after it. One that had to wait for the writer tells that others want it too.
 */
const paces = { alone: { heldMs: 10, rest: 0.25 }, beside: { heldMs: 5, rest: 6 } }
const waitedMs = 0.3
const pausePollMs = 500

/** A run under way. */
export interface Collection {
  ctx: JobContext
  run: GcRun
  holder: string
  actor: string
  signal: AbortSignal
  phase: string
  phaseAt: number
  progress: number
  /** things that could not be collected; the run goes on without them */
  failures: number
  firstFailure: string
  pace: keyof typeof paces
}

/** The run ends here: told to stop, or taken over. */
export class Stopped extends Error {}

/** What taking one thing did. Digests of blobs that went are journaled together, one entry a transaction. */
export interface Taken extends GcCounts {
  blobDigest?: Digest
}

/** Begins a phase: what the status shows. */
export async function enterPhase(c: Collection, phase: string): Promise<void> {
  c.phase = phase
  c.phaseAt = c.ctx.now()
  c.progress = 0
  await note(c, {})
}

/** Adds to the counts of the run and keeps it this process's. Errors: Stopped. */
export async function note(c: Collection, counts: GcCounts): Promise<void> {
  const mine = await c.ctx.metadata.write((sql) => noteRun(sql, c, c.ctx.now(), counts))
  if (!mine) throw new Stopped('another process went on with it')
}

/** Waits while collection is paused; a dry run removes nothing, and goes on. Errors: Stopped. */
export async function mayGoOn(c: Collection): Promise<void> {
  for (let phase: string | undefined; ; ) {
    if (c.signal.aborted) throw new Stopped('stopped; the next run goes on')
    if (c.run.dryRun !== 0 || !(await isPaused(c.ctx.metadata.read))) {
      if (phase !== undefined) c.phase = phase
      return
    }
    phase ??= c.phase
    c.phase = 'paused'
    await sleep(pausePollMs)
  }
}

/** Rests after `ms` of work on `things`: `times` as long for requests, and as the configured rate demands; not after a stop. */
export async function breathe(
  { ctx, signal }: { ctx: Pick<JobContext, 'retention'>; signal: AbortSignal },
  ms: number,
  things: number,
  times = 1,
): Promise<void> {
  const { ratePerSecond } = ctx.retention
  await rest(Math.max(1, ms * times, ratePerSecond > 0 ? (things / ratePerSecond) * 1000 - ms : 0), signal)
}

/**
 * Takes what a source names, in transactions bounded by number and time; each says in itself how far the run is. Where one fails it is
 * halved until the thing that fails is alone, and left out: damage in one place keeps nothing else. Shape: how many were taken.
 * Errors: Stopped; failures of the database as a whole.
 */
export async function takeEach(
  c: Collection,
  kind: GarbageKind,
  source: Source,
  take: (sql: Sql, append: Append, item: Candidate) => Promise<Taken | undefined>,
): Promise<number> {
  let taken = 0
  const handle = async (items: readonly Candidate[]): Promise<void> => {
    for (let at = 0; at < items.length; ) {
      await mayGoOn(c)
      const batch = items.slice(at, at + together)
      try {
        const { done, took, whole } = await transaction(c, batch, take)
        taken += took
        at += done
        await breathe(c, whole, done, paces[c.pace].rest)
      } catch (error) {
        if (!isOwnFault(error)) throw error
        if (batch.length === 1) await leaveOut(c, `${kind} ${batch[0]?.digest}`, error)
        else {
          const half = Math.ceil(batch.length / 2)
          await handle(batch.slice(0, half))
          await handle(batch.slice(half))
        }
        at += batch.length
      }
    }
  }
  for await (const { items, progress } of source) {
    await handle(items)
    c.progress = progress
    if (items.length === 0) await breathe(c, 1, 0)
  }
  return taken
}

async function transaction(
  c: Collection,
  items: readonly Candidate[],
  take: (sql: Sql, append: Append, item: Candidate) => Promise<Taken | undefined>,
): Promise<{ done: number; took: number; whole: number }> {
  const { heldMs } = paces[c.pace]
  const asked = performance.now()
  const result = { done: 0, took: 0, ms: 0 }
  let began = asked
  const counts: GcCounts = {}
  const mine = await change(c.ctx, { principal: { subject: c.actor } }, async (sql, append) => {
    Object.assign(result, { done: 0, took: 0 })
    for (const name of Object.keys(counts)) delete counts[name as keyof GcCounts]
    began = performance.now()
    const digests: Digest[] = []
    // Asked again here: this may have waited behind the one that pauses, which has been answered. It is tried again when that ends.
    for (const item of (await isPaused(sql)) ? [] : items) {
      const taken = await take(sql, append, item)
      result.done++
      if (taken) {
        const { blobDigest, ...more } = taken
        result.took++
        if (blobDigest !== undefined) digests.push(blobDigest)
        for (const [name, count] of Object.entries(more) as [keyof GcCounts, number][]) counts[name] = (counts[name] ?? 0) + count
      }
      if (performance.now() - began > heldMs) break
    }
    if (digests.length > 0) append({ type: 'blobs_collected', detail: { gc_id: c.run.id, digests } })
    result.ms = performance.now() - began
    return await noteRun(sql, c, c.ctx.now(), { ...counts, batches: 1, heldUs: Math.round(result.ms * 1000) })
  })
  if (!mine) throw new Stopped('another process went on with it')
  c.ctx.count('gc_batches_total')
  c.ctx.count('gc_writer_seconds_total', {}, result.ms / 1000)
  for (const what of ['manifests', 'links', 'blobs'] as const)
    if (counts[what]) c.ctx.count('gc_removed_total', { what: what.slice(0, -1) }, counts[what])
  c.pace = began - asked > waitedMs ? 'beside' : 'alone'
  return { ...result, whole: performance.now() - began }
}

/** Whether the thing at hand failed, and not the database as a whole. */
const isOwnFault = (error: unknown): error is Error =>
  isMetadataError(error) && (error.code === 'DB_CONSTRAINT' || error.code === 'DB_ERROR')

/** Runs a step without which the rest goes on. Errors: Stopped; failures of the database as a whole. */
export async function orLeaveOut(c: Collection, what: string, step: () => Promise<void>): Promise<void> {
  try {
    await step()
  } catch (error) {
    if (!isOwnFault(error)) throw error
    await leaveOut(c, what, error)
  }
}

async function leaveOut(c: Collection, what: string, error: Error): Promise<void> {
  c.failures++
  c.firstFailure ||= `${what}: ${error.message}`
  c.ctx.count('gc_failures_total')
  c.ctx.log({ level: 'error', event: 'gc_left_out', what, error: error.message })
  await note(c, { failures: 1 })
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
