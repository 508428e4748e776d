import { deadIncarnations, nextReap } from '../metadata/garbage.ts'
import type { Job, JobContext } from './job.ts'

/**
 * T8: removes the files of dead incarnations, then their rows. An incarnation in the trash can never come back to life, so this is safe
 * however late it happens. A quarantine lets reads that began before finish; what was never visible skips it. While a pin holds, nothing goes.
 */
export const reapTrash: Job = {
  name: 'reap-trash',
  everyMs: 60_000,
  run: async (ctx, signal) => {
    const { files, bytes, shared } = await reap(ctx, ctx.retention.quarantineAfter, signal)
    return { files, bytes, shared }
  },
}

/** Files that went, the bytes that are free now, those that a snapshot's names keep, and how many files could not go. */
export interface Reaped {
  files: number
  bytes: number
  shared: number
  failed: number
}

/** `quarantineAfter` 0 is for who wants the space now: reads that began before may be cut. */
export async function reap(ctx: JobContext, quarantineAfter: number, signal: AbortSignal): Promise<Reaped> {
  const reaped: Reaped = { files: 0, bytes: 0, shared: 0, failed: 0 }
  for (let after = ''; !signal.aborted; ) {
    const dead = await deadIncarnations(ctx.metadata.read, { after, quarantineAfter })
    if (dead.length === 0) break
    const gone = await removeFiles(ctx, dead, reaped)
    await ctx.metadata.write(async (sql) => {
      for (const incarnation of gone) await sql.run(`DELETE FROM trash WHERE inc = ?`, [incarnation])
    })
    after = dead.at(-1)?.incarnation ?? ''
  }
  return reaped
}

/**
 * Removes files for good. Before the first goes, the number of this removal is committed, then noted beside the blobs: a database from
 * before it, put back over these files, is known by its smaller number. Shape: the incarnations whose files are gone.
 */
export async function removeFiles(
  ctx: Pick<JobContext, 'metadata' | 'blobs' | 'count' | 'log'>,
  dead: Parameters<JobContext['blobs']['remove']>[0],
  total: Reaped,
): Promise<string[]> {
  await ctx.blobs.noteReaped(await ctx.metadata.write(nextReap))
  const { files, bytes, shared, failed } = await ctx.blobs.remove(dead)
  total.files += files
  total.bytes += bytes
  total.shared += shared
  total.failed += failed.length
  ctx.count('gc_freed_bytes_total', {}, bytes)
  ctx.count('gc_removed_total', { what: 'file' }, files)
  for (const { incarnation, reason } of failed) ctx.log({ level: 'error', event: 'file_not_removed', incarnation, reason })
  const kept = new Set(failed.map(({ incarnation }) => incarnation))
  return dead.map(({ incarnation }) => incarnation).filter((incarnation) => !kept.has(incarnation))
}
