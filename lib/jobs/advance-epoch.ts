import type { Job } from './job.ts'

/** How long an epoch lasts: what nobody wanted for one to two of them counts as cold. Safety does not depend on it. */
const epochMs = 24 * 3_600_000
const stepMs = 60_000

/**
 * T11: moves the storage epoch by time that was really observed. Each run adds at most two steps, however far the clock jumped: a wall
 * clock that leaps can delay collection and never hasten it.
 */
export function advanceEpoch(): Job {
  let seen: number | undefined
  return {
    name: 'advance-epoch',
    everyMs: stepMs,
    async run(ctx) {
      const now = performance.now()
      const observed = seen === undefined ? 0 : Math.min(now - seen, 2 * stepMs)
      seen = now
      const moved = await ctx.metadata.write(async (sql) => {
        await sql.run(`UPDATE instance SET epoch_elapsed_ms = epoch_elapsed_ms + ?`, [Math.round(observed)])
        return await sql.run(`UPDATE instance SET epoch = epoch + 1, epoch_elapsed_ms = 0 WHERE epoch_elapsed_ms >= ?`, [epochMs])
      })
      return { epochs: moved }
    },
  }
}
