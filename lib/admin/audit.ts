import type { MessageInitShape } from '@bufbuild/protobuf'
import { entriesAfter, type JournalFilter, journalHead, type KeptEntry, newestEntries } from '../journal/read.ts'
import { verifyJournal } from '../journal/verify.ts'
import { AuditService, type EventSchema } from './gen/mcr/v1/audit_pb.ts'
import { cutPage, invalid, parseAdminPage, parseNumberAfter, stamp, timeOf } from './input.ts'
import { type Operation, operation, streaming } from './operation.ts'

const { listEvents, streamEvents, verifyJournal: verify } = AuditService.method
const columns = ['event_time', 'event_type', 'actor_name', 'ip', 'repository', 'tag', 'digest', 'count', 'details'] as const

const batch = 500
const followMs = 500

/** The journal, read. */
export const auditOperations: readonly Operation[] = [
  operation(listEvents, {
    summary: 'list entries of the journal, newest first',
    action: 'audit:read',
    rest: { method: 'GET', path: '/v1/audit' },
    cli: { words: 'audit list', columns, newest: true },
    async run(input, _call, ctx) {
      const { limit, after, offset } = parseAdminPage(input)
      const before = parseNumberAfter(after, Number.MAX_SAFE_INTEGER)
      const found = await newestEntries(ctx.metadata.read, filterOf(input), { limit: limit + 1, before, offset })
      const { rows, next } = cutPage(found, limit, (row) => row.seq)
      return { events: rows.map(toMessage), next }
    },
  }),
  streaming(streamEvents, {
    summary: 'entries of the journal as JSON Lines, oldest first; with follow also those to come',
    action: 'audit:read',
    rest: { method: 'GET', path: '/v1/audit/events' },
    cli: { words: 'audit tail', columns },
    async *stream(input, { signal }, ctx) {
      const sql = ctx.metadata.read
      const filter = filterOf(input)
      if (input.last < 0 || input.last > 10_000) throw invalid('last', 'a whole number from 0 to 10000')
      const [first] =
        input.last > 0
          ? (await newestEntries(sql, filter, { limit: input.last, before: Number.MAX_SAFE_INTEGER, offset: 0 })).slice(-1)
          : []
      let after = first ? first.seq - 1 : input.last > 0 ? await journalHead(sql) : 0
      let revision: number | undefined
      while (!signal?.aborted) {
        const before = ctx.metadata.revision()
        const rows = before !== undefined && before === revision ? [] : await entriesAfter(sql, filter, after, batch)
        for (const row of rows) {
          yield { event: toMessage(row) }
          after = row.seq
        }
        if (rows.length === batch) continue
        revision = before
        if (!input.follow) return
        await new Promise((resolve) => setTimeout(resolve, followMs))
      }
    },
  }),
  operation(verify, {
    summary: 'verify the chain of the journal: finds an edited, removed or inserted entry',
    action: 'audit:read',
    rest: { method: 'POST', path: '/v1/audit/verify' },
    cli: { words: 'audit verify' },
    async run({ checkpoints }, _call, ctx) {
      const report = await verifyJournal(ctx.metadata.read, ctx.sha256, checkpoints)
      const { ok, head } = report
      return {
        ok,
        head,
        entries: BigInt(report.entries),
        firstSeq: BigInt(report.firstSeq),
        lastSeq: BigInt(report.lastSeq),
        checkpoints: BigInt(report.checkpoints),
        dropped: BigInt(report.dropped),
        problems: report.problems.map(({ seq, what }) => ({ seq: BigInt(seq), what })),
      }
    },
  }),
]

function filterOf(
  input: Parameters<typeof timeRange>[0] & { eventType: string; actorId: string; repository: string },
): JournalFilter {
  return { type: input.eventType, actor: input.actorId, repository: input.repository, ...timeRange(input) }
}

function timeRange(input: { since?: Parameters<typeof timeOf>[1]; until?: Parameters<typeof timeOf>[1] }) {
  return { since: timeOf('since', input.since), until: timeOf('until', input.until) }
}

function toMessage(entry: KeptEntry): MessageInitShape<typeof EventSchema> {
  return {
    seq: BigInt(entry.seq),
    id: entry.id,
    eventTime: stamp(entry.at),
    eventType: entry.type,
    actorId: entry.actor ?? '',
    actorName: entry.actorName ?? entry.actor ?? '',
    ip: entry.address ?? '',
    repository: entry.repository ?? '',
    digest: entry.digest ?? '',
    tag: entry.tag ?? '',
    details: entry.detail ?? '',
    count: BigInt(entry.count),
    dropped: entry.dropped !== 0,
  }
}
