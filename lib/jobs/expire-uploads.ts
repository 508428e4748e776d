import { abandon } from '../blobs/finish.ts'
import { idleUploads } from '../metadata/uploads.ts'
import type { Job } from './job.ts'

/** T9: forgets uploads that nobody touched for the configured time, row first, then files. */
export const expireUploads: Job = {
  name: 'expire-uploads',
  everyMs: 10 * 60_000,
  async run(ctx, signal) {
    let expired = 0
    for (;;) {
      const idle = await idleUploads(ctx.metadata.read, ctx.now() - ctx.limits.uploadIdleMs, 100)
      for (const inc of idle) {
        if (signal.aborted) return { expired }
        if (await abandon(ctx, { inc: inc as never })) expired++
      }
      if (idle.length < 100) return { expired }
    }
  },
}
