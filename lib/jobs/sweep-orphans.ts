import type { StoredFile } from '../blobs/blob-store.ts'
import type { JobContext } from './job.ts'

/**
 * T10: removes files that no row names. It sees the file first and asks the database second: a file that is seen was registered before it
 * was made, and an incarnation that is in no table then is dead for ever. Asked the other way round it would take files of uploads that
 * began in between. What is in the trash is left to the reaper. Tells `found` how many after each look.
 */
export async function sweepOrphans(
  ctx: Pick<JobContext, 'metadata' | 'blobs'>,
  options: { dryRun: boolean },
  signal: AbortSignal,
  found: (orphans: number) => Promise<void>,
): Promise<void> {
  for await (const files of ctx.blobs.list()) {
    if (signal.aborted) return
    const orphans = await orphansOf(ctx, files)
    if (!options.dryRun)
      for (const { incarnation, part, digest } of orphans)
        if (part !== undefined) await ctx.blobs.dropSegment(incarnation, part)
        else await ctx.blobs.remove(incarnation, digest)
    await found(orphans.length)
  }
}

/** S11: under uploads a file lives by its incarnation, under blobs by digest *and* incarnation, or by an upload that is finishing. */
async function orphansOf(ctx: Pick<JobContext, 'metadata'>, files: readonly StoredFile[]): Promise<StoredFile[]> {
  const list = JSON.stringify([...new Set(files.map(({ incarnation }) => incarnation))])
  const sql = ctx.metadata.read
  const uploads = await sql.all<{ inc: string }>(`SELECT inc FROM uploads WHERE inc IN (SELECT value FROM json_each(?))`, [list])
  const trash = await sql.all<{ inc: string }>(`SELECT inc FROM trash WHERE inc IN (SELECT value FROM json_each(?))`, [list])
  const blobs = await sql.all<{ inc: string; digest: string }>(
    `SELECT inc, digest FROM blobs WHERE inc IN (SELECT value FROM json_each(?))`,
    [list],
  )
  const kept = new Set([...uploads, ...trash].map(({ inc }) => inc))
  const pairs = new Set(blobs.map(({ inc, digest }) => `${digest}.${inc}`))
  return files.filter(
    ({ incarnation, digest }) => !kept.has(incarnation) && !(digest !== undefined && pairs.has(`${digest}.${incarnation}`)),
  )
}
