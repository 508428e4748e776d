import type { Job } from './job.ts'
import type { Retention } from './retention.ts'

/** Beats in an epoch, as long as they are between a second and a minute apart. */
const beats = 60

/**
 * T11: moves the storage epoch by time that one process really observed. Each beat adds at most two steps, and only to a beat of its own:
 * a process that finds another's takes over once it has seen that one stand still for three steps. No wall clock is asked, so one that
 * leaps can neither delay collection nor hasten it, and however many processes beat, an epoch is never shorter than it should be.
 */
export function advanceEpoch({ epochMs }: Pick<Retention, 'epochMs'>): Job {
  const stepMs = Math.min(60_000, Math.max(1_000, Math.ceil(epochMs / beats)))
  let own: string | undefined
  let last: { holder: string; beat: number; at: number } | undefined
  return {
    name: 'advance-epoch',
    everyMs: stepMs,
    lease: 'own',
    async run(ctx) {
      own ??= ctx.newId()
      const holder = own
      const at = performance.now()
      const [lease] = await ctx.metadata.read.all<{ holder: string; beat: number }>(
        `SELECT holder, beat FROM leases WHERE name = 'epoch'`,
      )
      const unchanged = last !== undefined && lease?.holder === last.holder && lease.beat === last.beat
      const observed = last === undefined ? 0 : at - last.at
      if (lease && lease.holder !== holder && !(unchanged && observed > 3 * stepMs)) {
        if (!unchanged) last = { ...lease, at }
        return { epochs: 0 }
      }
      const mine = unchanged && lease?.holder === holder
      const beat = (lease?.beat ?? 0) + 1
      const epochs = await ctx.metadata.write(async (sql) => {
        const beaten = await sql.run(
          `INSERT INTO leases(name, holder, beat, expires_at) VALUES ('epoch', ?, ?, 0)
           ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, beat = excluded.beat WHERE holder = ? AND beat = ?`,
          [holder, beat, lease?.holder ?? '', lease?.beat ?? 0],
        )
        if (beaten === 0 || !mine) return 0
        await sql.run(`UPDATE instance SET epoch_elapsed_ms = epoch_elapsed_ms + ?`, [Math.round(Math.min(observed, 2 * stepMs))])
        return await sql.run(`UPDATE instance SET epoch = epoch + 1, epoch_elapsed_ms = 0 WHERE epoch_elapsed_ms >= ?`, [epochMs])
      })
      last = { holder, beat, at }
      return { epochs }
    },
  }
}
