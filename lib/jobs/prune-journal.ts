import { change } from '../journal/change.ts'
import type { Job } from './job.ts'

const batch = 500

/**
 * Retention that keeps the chain provable (J3). Past its time an entry loses what it says, never its place; entries of that kind at the
 * old end of the chain go whole, up to a signed checkpoint, which then stands for them. The hourly aggregate goes with the pulls.
 */
export function pruneJournal(options: { retentionMs: number; pullRetentionMs: number }): Job {
  return {
    name: 'prune-journal',
    everyMs: 3_600_000,
    async run(ctx, signal) {
      const now = ctx.now()
      let dropped = 0
      for (const [until, kinds] of [
        [now - options.retentionMs, ''],
        [now - options.pullRetentionMs, `AND type = 'manifest_pulled'`],
      ] as const)
        for (;;) {
          if (signal.aborted) return { dropped, removed: 0, hours: 0 }
          const changed = await ctx.metadata.write((sql) =>
            sql.run(
              `UPDATE journal SET dropped = 1, actor = NULL, address = NULL, repository = NULL, digest = NULL, tag = NULL, detail = NULL
               WHERE seq IN (SELECT seq FROM journal WHERE dropped = 0 AND at < ? ${kinds} ORDER BY seq LIMIT ${batch})`,
              [until],
            ),
          )
          dropped += changed
          if (changed < batch) break
        }
      const removed = await ctx.metadata.write(async (sql) => {
        const [base] = await sql.all<{ seq: number | null }>(
          `SELECT max(c.seq) AS seq FROM journal_checkpoints c
           WHERE c.at < ? AND c.seq < (SELECT max(seq) FROM journal) AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.seq <= c.seq AND j.dropped = 0)`,
          [now - options.retentionMs],
        )
        if (!base?.seq) return 0
        await sql.run(`DELETE FROM journal_checkpoints WHERE seq < ?`, [base.seq])
        return await sql.run(`DELETE FROM journal WHERE seq <= ?`, [base.seq])
      })
      const hours = await ctx.metadata.write((sql) =>
        sql.run(`DELETE FROM decisions WHERE hour < ?`, [Math.floor((now - options.pullRetentionMs) / 3_600_000)]),
      )
      if (dropped + removed > 0)
        await change(ctx, { principal: { subject: 'system:prune-journal' } }, async (_sql, append) => {
          append({ type: 'retention_applied', detail: { dropped, removed, until: now - options.retentionMs } })
        })
      return { dropped, removed, hours }
    },
  }
}
