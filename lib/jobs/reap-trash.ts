import type { Job, JobContext } from './job.ts'

/**
 * T8: removes the files of dead incarnations, then their rows. An incarnation in the trash can never come back to life, so this is safe
 * however late it happens. One epoch of quarantine lets reads that began before finish; what was never visible skips it.
 */
export const reapTrash: Job = {
  name: 'reap-trash',
  everyMs: 60_000,
  run: (ctx, signal) => reap(ctx, signal, `digest IS NULL OR epoch < (SELECT epoch FROM instance)`),
}

/** The same without the quarantine, for who wants the space now: reads that began before may be cut. */
export async function reapNow(ctx: JobContext, signal: AbortSignal): Promise<void> {
  await reap(ctx, signal, `1`)
}

async function reap(ctx: JobContext, signal: AbortSignal, which: string): Promise<{ removed: number }> {
  let removed = 0
  for (;;) {
    const dead = await ctx.metadata.read.all<{ inc: string; digest: string | null }>(
      `SELECT inc, digest FROM trash WHERE ${which} ORDER BY inc LIMIT 100`,
    )
    for (const { inc, digest } of dead) {
      if (signal.aborted) return { removed }
      await ctx.blobs.remove(inc, (digest ?? undefined) as never)
      removed++
    }
    if (dead.length > 0)
      await ctx.metadata.write(async (sql) => {
        for (const { inc } of dead) await sql.run(`DELETE FROM trash WHERE inc = ?`, [inc])
      })
    if (dead.length < 100) return { removed }
  }
}
