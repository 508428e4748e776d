import { change } from '../journal/change.ts'
import { writeRanges } from '../journal/ranges.ts'
import type { Job } from './job.ts'

const batch = 500

/**
 * Retention that keeps the chain provable. Past its time an entry loses what it says, never its place; entries of that kind at the
 * old end of the chain go whole, up to a signed checkpoint, which then stands for them. Each step says in the journal which entries it
 * was, in its own transaction: an entry without words that no such line names was emptied by somebody else. Those lines keep their words
 * until they go whole. The hourly aggregate goes with the pulls. Nothing goes while `clockIsSteady` doubts the clock.
 */
export function pruneJournal(options: { retentionMs: number; pullRetentionMs: number; clockIsSteady?: () => boolean }): Job {
  return {
    name: 'prune-journal',
    everyMs: 3_600_000,
    async run(ctx, signal) {
      if (options.clockIsSteady?.() === false) return { dropped: 0, removed: 0, hours: 0 }
      const actor = { principal: { subject: 'system:prune-journal' } }
      const now = ctx.now()
      let dropped = 0
      for (const [until, kinds] of [
        [now - options.retentionMs, ''],
        [now - options.pullRetentionMs, `AND type = 'manifest_pulled'`],
      ] as const)
        for (;;) {
          if (signal.aborted) return { dropped, removed: 0, hours: 0 }
          const changed = await change(ctx, actor, async (sql, append) => {
            const rows = await sql.all<{ seq: number }>(
              `UPDATE journal SET dropped = 1, actor = NULL, address = NULL, repository = NULL, digest = NULL, tag = NULL, detail = NULL
               WHERE seq IN (SELECT seq FROM journal WHERE dropped = 0 AND at < ? AND type <> 'retention_applied' ${kinds} ORDER BY seq LIMIT ${batch})
               RETURNING seq`,
              [until],
            )
            if (rows.length === 0) return 0
            const entries = writeRanges(rows.map(({ seq }) => seq).sort((a, b) => a - b))
            append({ type: 'retention_applied', detail: { dropped: rows.length, removed: 0, entries, until } })
            return rows.length
          })
          dropped += changed
          if (changed < batch) break
        }
      const until = now - options.retentionMs
      const removed = await change(ctx, actor, async (sql, append) => {
        const [base] = await sql.all<{ seq: number | null }>(
          `SELECT max(c.seq) AS seq FROM journal_checkpoints c
           WHERE c.at < ? AND c.seq < (SELECT max(seq) FROM journal)
           AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.seq <= c.seq AND (j.dropped = 0 AND (j.type <> 'retention_applied' OR j.at >= ?)))`,
          [until, until],
        )
        if (!base?.seq) return 0
        await sql.run(`DELETE FROM journal_checkpoints WHERE seq < ?`, [base.seq])
        const count = await sql.run(`DELETE FROM journal WHERE seq <= ?`, [base.seq])
        if (count > 0)
          append({ type: 'retention_applied', detail: { dropped: 0, removed: count, entries: `..${base.seq}`, until } })
        return count
      })
      const hours = await ctx.metadata.write((sql) =>
        sql.run(`DELETE FROM decisions WHERE hour < ?`, [Math.floor((now - options.pullRetentionMs) / 3_600_000)]),
      )
      return { dropped, removed, hours }
    },
  }
}
