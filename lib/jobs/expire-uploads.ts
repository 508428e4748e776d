import { isPaused } from '../metadata/gc-runs.ts'
import { expireIdleUploads, type Idle } from '../metadata/uploads.ts'
import { breathe } from './gc-pace.ts'
import type { Job, JobContext } from './job.ts'

/** T9: forgets uploads that nobody touched for the configured time. Their files are trash. */
export const expireUploads: Job = {
  name: 'expire-uploads',
  everyMs: 10 * 60_000,
  run: async (ctx, signal) => ({ expired: await expire(ctx, signal) }),
}

const atOnce = 100

/** Which uploads are idle now. */
export const idleNow = ({ now, limits, retention }: Pick<JobContext, 'now' | 'limits' | 'retention'>): Idle => ({
  now: now(),
  idleMs: limits.uploadIdleMs,
  coldAfter: retention.coldAfter,
  limit: atOnce,
})

/** Both the clock and the epoch must say that an upload is old: a clock that leaps ends none that is under way. Shape: how many went. */
export async function expire(ctx: JobContext, signal: AbortSignal): Promise<number> {
  for (let expired = 0; ; ) {
    const went =
      signal.aborted || (await isPaused(ctx.metadata.read))
        ? 0
        : await ctx.metadata.write(async (sql) => ((await isPaused(sql)) ? 0 : await expireIdleUploads(sql, idleNow(ctx))))
    expired += went
    if (went < atOnce) return expired
    await breathe({ ctx, signal }, 1, went)
  }
}
