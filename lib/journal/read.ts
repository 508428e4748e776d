import type { Sql } from '../metadata/sql.ts'

/** An entry of the journal as it is read back. What retention dropped is null. */
export interface KeptEntry {
  seq: number
  id: string
  at: number
  type: string
  actor: string | null
  actorName: string | null
  address: string | null
  repository: string | null
  digest: string | null
  tag: string | null
  detail: string | null
  count: number
  dropped: number
}

/** What to look for; empty fields look for everything. Times in ms since 1970. */
export interface JournalFilter {
  type?: string
  actor?: string
  repository?: string
  since?: number
  until?: number
}

const columns = `j.seq, j.id, j.at, j.type, j.actor, a.name AS actorName, j.address, j.repository, j.digest, j.tag, j.detail, j.count, j.dropped`

/** Entries newest first, before number `before`. Shape: at most `limit`. */
export async function newestEntries(
  sql: Sql,
  filter: JournalFilter,
  page: { limit: number; before: number; offset: number },
): Promise<KeptEntry[]> {
  const { where, args } = whereOf(filter)
  return await sql.all<KeptEntry>(
    `SELECT ${columns} FROM journal j LEFT JOIN accounts a ON a.subject = j.actor
     WHERE j.seq < ?${where} ORDER BY j.seq DESC LIMIT ? OFFSET ?`,
    [page.before, ...args, page.limit, page.offset],
  )
}

/** Entries oldest first, after number `after`. Shape: at most `limit`. */
export async function entriesAfter(sql: Sql, filter: JournalFilter, after: number, limit: number): Promise<KeptEntry[]> {
  const { where, args } = whereOf(filter)
  return await sql.all<KeptEntry>(
    `SELECT ${columns} FROM journal j LEFT JOIN accounts a ON a.subject = j.actor
     WHERE j.seq > ?${where} ORDER BY j.seq LIMIT ?`,
    [after, ...args, limit],
  )
}

/** The number of the newest entry; 0 where there is none. */
export async function journalHead(sql: Sql): Promise<number> {
  const [row] = await sql.all<{ seq: number | null }>(`SELECT max(seq) AS seq FROM journal`)
  return row?.seq ?? 0
}

function whereOf({ type, actor, repository, since, until }: JournalFilter): { where: string; args: (string | number)[] } {
  const parts: [text: string, value: string | number | undefined][] = [
    [' AND j.type = ?', type],
    [' AND j.actor = ?', actor],
    [' AND j.repository = ?', repository],
    [' AND j.at >= ?', since],
    [' AND j.at < ?', until],
  ]
  const used = parts.filter((part): part is [string, string | number] => part[1] !== undefined && part[1] !== '')
  return { where: used.map(([text]) => text).join(''), args: used.map(([, value]) => value) }
}
