import type { StoredFile } from '../blobs/blob-store.ts'
import { pinned } from '../metadata/garbage.ts'
import type { JobContext } from './job.ts'
import { type Reaped, removeFiles } from './reap-trash.ts'

/**
 * T10: removes files that no row names. It sees the file first and asks the database second: a file that is seen was registered before it
 * was made, and an incarnation that is in no table then is dead for ever. Asked the other way round it would take files of uploads that
 * began in between. What is in the trash is left to the reaper. Shape: what each look found and removed.
 */
export async function* sweepOrphans(
  ctx: JobContext,
  options: { dryRun: boolean },
): AsyncIterable<Reaped & { looked: number; orphans: number }> {
  // Removing one segment removes all of its upload; weighing them must not weigh those of an earlier look again.
  const weighed = new Set<string>()
  for await (const files of ctx.blobs.list()) {
    const orphans = await orphansOf(ctx, files)
    const fresh = orphans.filter(({ incarnation, part }) => part === undefined || !weighed.has(incarnation))
    if (options.dryRun) for (const { incarnation } of fresh) weighed.add(incarnation)
    yield { ...(await take(ctx, fresh, options)), looked: files.length, orphans: orphans.length }
  }
}

async function take(ctx: JobContext, orphans: readonly StoredFile[], { dryRun }: { dryRun: boolean }): Promise<Reaped> {
  if (orphans.length === 0) return { files: 0, bytes: 0, shared: 0, failed: 0 }
  if (!dryRun) return await removeFiles(ctx, orphans)
  const would = await ctx.blobs.wouldRemove(orphans)
  return { ...would, failed: would.failed.length }
}

/**
 * Under uploads a file lives by its incarnation, under blobs by digest *and* incarnation, or by an upload that is finishing. One statement,
 * so that nothing moves between its questions; while a pin holds, nothing is an orphan.
 */
export async function orphansOf(ctx: Pick<JobContext, 'metadata'>, files: readonly StoredFile[]): Promise<StoredFile[]> {
  const rows = await ctx.metadata.read.all<{ at: number }>(
    `SELECT f.key AS at FROM json_each(?) f WHERE NOT ${pinned}
     AND NOT EXISTS (SELECT 1 FROM uploads WHERE inc = f.value ->> 0) AND NOT EXISTS (SELECT 1 FROM trash WHERE inc = f.value ->> 0)
     AND NOT EXISTS (SELECT 1 FROM blobs WHERE inc = f.value ->> 0 AND digest = f.value ->> 1) ORDER BY f.key`,
    [JSON.stringify(files.map(({ incarnation, digest }) => [incarnation, digest ?? null]))],
  )
  return rows.map(({ at }) => files[at] as StoredFile)
}
