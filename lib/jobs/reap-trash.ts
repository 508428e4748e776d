import { deadIncarnations } from '../metadata/garbage.ts'
import type { Job, JobContext } from './job.ts'

/**
 * T8: removes the files of dead incarnations, then their rows. An incarnation in the trash can never come back to life, so this is safe
 * however late it happens. A quarantine lets reads that began before finish; what was never visible skips it. While a pin holds, nothing goes.
 */
export const reapTrash: Job = {
  name: 'reap-trash',
  everyMs: 60_000,
  run: async (ctx, signal) => ({ removed: await reap(ctx, ctx.retention.quarantineAfter, signal) }),
}

/** `quarantineAfter` 0 is for who wants the space now: reads that began before may be cut. Shape: how many incarnations went. */
export async function reap(ctx: JobContext, quarantineAfter: number, signal: AbortSignal): Promise<number> {
  let removed = 0
  for (let after = ''; ; ) {
    const dead = await deadIncarnations(ctx.metadata.read, { after, quarantineAfter })
    for (const { inc, digest } of dead) {
      if (signal.aborted) return removed
      await ctx.blobs.remove(inc, digest ?? undefined)
      removed++
    }
    if (dead.length === 0) return removed
    await ctx.metadata.write(async (sql) => {
      for (const { inc } of dead) await sql.run(`DELETE FROM trash WHERE inc = ?`, [inc])
    })
    after = dead.at(-1)?.inc ?? ''
  }
}
