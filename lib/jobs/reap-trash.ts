import { deadIncarnations, nextReap } from '../metadata/garbage.ts'
import { isPaused } from '../metadata/gc-runs.ts'
import { breathe } from './gc-pace.ts'
import type { Job, JobContext } from './job.ts'

/**
 * T8: removes the files of dead incarnations, then their rows. An incarnation in the trash can never come back to life, so this is safe
 * however late it happens. A quarantine lets reads that began before finish; what was never visible skips it. While a pin holds, nothing goes.
 */
export const reapTrash: Job = {
  name: 'reap-trash',
  everyMs: 60_000,
  run: async (ctx, signal) => {
    const total = { files: 0, bytes: 0 }
    for await (const { files, bytes } of reap(ctx, ctx.retention.quarantineAfter, signal)) {
      total.files += files
      total.bytes += bytes
    }
    return total
  },
}

/** Files that went, the bytes that are free now, those that a snapshot's names keep, and how many incarnations' files could not go. */
export interface Reaped {
  files: number
  bytes: number
  shared: number
  failed: number
}

/** Some at a time, with rests for requests, while collection is not paused. `quarantineAfter` 0 is for who wants the space now: reads that began before may be cut. */
export async function* reap(ctx: JobContext, quarantineAfter: number, signal: AbortSignal): AsyncIterable<Reaped> {
  for (let after = ''; !(await isPaused(ctx.metadata.read)); ) {
    const dead = await deadIncarnations(ctx.metadata.read, { after, quarantineAfter })
    if (dead.length === 0) return
    const { gone, ...reaped } = await removeFiles(ctx, dead)
    await ctx.metadata.write(async (sql) => {
      for (const incarnation of gone) await sql.run(`DELETE FROM trash WHERE inc = ?`, [incarnation])
    })
    yield reaped
    if (signal.aborted) return
    await breathe({ ctx, signal }, 1, dead.length)
    after = dead.at(-1)?.incarnation ?? ''
  }
}

/**
 * Removes files for good. Before the first goes, the number of this removal is committed, then noted beside the blobs: a database from
 * before it, put back over these files, is known by its smaller number. Shape: what went, with the incarnations whose files are gone.
 */
export async function removeFiles(
  ctx: Pick<JobContext, 'metadata' | 'blobs' | 'count' | 'log'>,
  dead: Parameters<JobContext['blobs']['remove']>[0],
): Promise<Reaped & { gone: string[] }> {
  const seq = await ctx.metadata.write(async (sql) => ((await isPaused(sql)) ? undefined : await nextReap(sql)))
  if (seq === undefined) return { files: 0, bytes: 0, shared: 0, failed: 0, gone: [] }
  await ctx.blobs.noteReaped(seq)
  const { files, bytes, shared, failed } = await ctx.blobs.remove(dead)
  ctx.count('gc_freed_bytes_total', {}, bytes)
  ctx.count('gc_removed_total', { what: 'file' }, files)
  for (const { incarnation, reason } of failed) ctx.log({ level: 'error', event: 'file_not_removed', incarnation, reason })
  const kept = new Set(failed.map(({ incarnation }) => incarnation))
  const gone = dead.map(({ incarnation }) => incarnation).filter((incarnation) => !kept.has(incarnation))
  return { files, bytes, shared, failed: failed.length, gone }
}
