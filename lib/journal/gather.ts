import type { Base, Ports } from '../context.ts'
import type { Action } from '../policy/actions.ts'
import type { JournalEntry } from './chain.ts'

/** What happens without changing anything: gathered and written within a second, equal ones as one entry with a count. */
export interface NotedEvent {
  type: 'denied' | 'login' | 'login_failed' | 'token_refused' | 'token_made' | 'manifest_pulled'
  actor: string
  address: string
  repository?: string
  digest?: string
  tag?: string
  detail?: Record<string, string | number | readonly string[]>
}

/** One answer of the policy, for the hourly aggregate. */
export interface DecisionMade {
  subject: string
  kind: string
  roles: readonly string[]
  action: Action
  repository: string
  tag: string
  address: string
  allowed: boolean
  /** 0: no rule allowed it */
  ruleId: number
}

export interface Gather {
  note(event: NotedEvent): void
  tally(decision: DecisionMade): void
  /** A credential was used now. */
  touch(credentialId: number): void
  /**
   * Writes the events that gathered, and now and then (or with `everything`) the aggregate and last uses.
   * Errors: those of the database; what could not be written is kept for the next time.
   */
  flush(options?: { everything: true }): Promise<void>
}

/** Different entries kept between two writes; what comes beyond is counted under one name. */
const most = 20_000
const hourMs = 3_600_000
/** The aggregate and last uses are written with the events, or at least this often. */
const slowMs = 10_000

/**
 * Gathers denials, logins, pulls and decisions of this process between writes (J2, J5). `pulls`: `none`; `sampled`: the first pull of a
 * digest by a principal from an address in each hour; `all`.
 */
export function createGather(
  ctx: Pick<Base, 'now' | 'newId' | 'count'> & Pick<Ports, 'metadata'>,
  options: { pulls: 'none' | 'sampled' | 'all' },
): Gather {
  let events = new Map<string, { event: NotedEvent; at: number; count: number }>()
  let decisions = new Map<string, { decision: DecisionMade; hour: number; lastAt: number; count: number }>()
  let used = new Map<number, number>()
  let pulled = { hour: 0, seen: new Set<string>() }
  let slowAt = 0

  const wanted = (event: NotedEvent) => {
    if (event.type !== 'manifest_pulled' || options.pulls === 'all') return true
    if (options.pulls === 'none') return false
    const hour = Math.floor(ctx.now() / hourMs)
    if (pulled.hour !== hour || pulled.seen.size >= most) pulled = { hour, seen: new Set() }
    const key = `${event.actor} ${event.address} ${event.repository} ${event.digest}`
    if (pulled.seen.has(key)) return false
    pulled.seen.add(key)
    return true
  }

  return {
    note(event) {
      if (!wanted(event)) return
      let { actor, address, repository, digest, tag, detail } = event
      let key = `${event.type}\n${actor}\n${address}\n${repository}\n${digest}\n${tag}\n${detail ? JSON.stringify(detail) : ''}`
      if (events.size >= most && !events.has(key)) {
        key = event.type
        actor = 'many'
        address = ''
        repository = digest = tag = detail = undefined
      }
      const known = events.get(key)
      if (known) known.count++
      else
        events.set(key, { event: { type: event.type, actor, address, repository, digest, tag, detail }, at: ctx.now(), count: 1 })
    },
    tally(decision) {
      const now = ctx.now()
      const hour = Math.floor(now / hourMs)
      const { subject, action, repository, tag, address, allowed, ruleId } = decision
      const key = `${hour} ${subject} ${decision.roles.join()} ${action} ${repository} ${tag} ${address} ${allowed} ${ruleId}`
      const known = decisions.get(key)
      if (known) {
        known.count++
        known.lastAt = now
      } else if (decisions.size < most) decisions.set(key, { decision, hour, lastAt: now, count: 1 })
      else ctx.count('decisions_uncounted_total')
    },
    touch(credentialId) {
      used.set(credentialId, ctx.now())
    },
    async flush(how) {
      const now = ctx.now()
      const slow = how?.everything || now - slowAt >= slowMs
      if (events.size === 0 && !(slow && (decisions.size > 0 || used.size > 0))) return
      const taken = { events, decisions, used }
      events = new Map()
      decisions = new Map()
      used = new Map()
      slowAt = now
      try {
        await ctx.metadata.write(async (sql, append) => {
          for (const { event, at, count } of taken.events.values()) append(entryOf(event, at, count, ctx.newId()))
          for (const { decision: d, hour, lastAt, count } of taken.decisions.values())
            await sql.run(
              `INSERT INTO decisions(hour, subject, kind, roles, action, repository, tag, address, allowed, rule_id, count, last_at)
               VALUES (?,?,?,?,?,?,?,?,?,?,?,?)
               ON CONFLICT DO UPDATE SET count = count + excluded.count, last_at = max(last_at, excluded.last_at)`,
              [
                hour,
                d.subject,
                d.kind,
                JSON.stringify(d.roles),
                d.action,
                d.repository,
                d.tag,
                d.address,
                d.allowed,
                d.ruleId,
                count,
                lastAt,
              ],
            )
          for (const [id, at] of taken.used)
            await sql.run(`UPDATE credentials SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?`, [at, id])
        })
      } catch (error) {
        // What came meanwhile is the newer half of the same entries.
        for (const [key, value] of taken.events) events.set(key, { ...value, count: value.count + (events.get(key)?.count ?? 0) })
        for (const [key, value] of taken.decisions) {
          const newer = decisions.get(key)
          decisions.set(key, { ...value, lastAt: newer?.lastAt ?? value.lastAt, count: value.count + (newer?.count ?? 0) })
        }
        for (const [id, at] of taken.used) used.set(id, Math.max(at, used.get(id) ?? 0))
        throw error
      }
    },
  }
}

function entryOf({ detail, ...event }: NotedEvent, at: number, count: number, id: string): JournalEntry {
  return { ...event, id, at, count, detail: detail === undefined ? undefined : JSON.stringify(detail) }
}
