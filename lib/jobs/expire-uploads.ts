import { isPaused } from '../metadata/gc-runs.ts'
import { expireIdleUploads } from '../metadata/uploads.ts'
import type { Job, JobContext } from './job.ts'

/** T9: forgets uploads that nobody touched for the configured time. Their files are trash. */
export const expireUploads: Job = {
  name: 'expire-uploads',
  everyMs: 10 * 60_000,
  run: async (ctx, signal) => ({ expired: await expire(ctx, signal) }),
}

/** Both the clock and the epoch must say that an upload is old: a clock that leaps ends none that is under way. Shape: how many went. */
export async function expire(ctx: JobContext, signal: AbortSignal): Promise<number> {
  const limit = 100
  const { coldAfter } = ctx.retention
  for (let expired = 0; ; ) {
    const went =
      signal.aborted || (await isPaused(ctx.metadata.read))
        ? 0
        : await ctx.metadata.write((sql) =>
            expireIdleUploads(sql, { before: ctx.now() - ctx.limits.uploadIdleMs, coldAfter, limit }),
          )
    expired += went
    if (went < limit) return expired
  }
}
