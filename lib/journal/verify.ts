import { hex } from '../auth/secrets.ts'
import type { Sql } from '../metadata/sql.ts'
import { chainHash, genesis, type JournalEntry, payloadHashOf, type Sha256 } from './chain.ts'
import { type Checkpoint, type CheckpointLine, checkSignature, parseCheckpointLines } from './checkpoint.ts'
import { readRanges } from './ranges.ts'

export interface JournalReport {
  ok: boolean
  entries: number
  firstSeq: number
  lastSeq: number
  checkpoints: number
  dropped: number
  problems: { seq: number; what: string }[]
  /** the newest hash in hex */
  head: string
}

interface Row extends Record<string, unknown> {
  seq: number
  payloadHash: Uint8Array
  hash: Uint8Array
  dropped: number
}

const batch = 2_000
const problemsMost = 100

/**
 * Walks the whole chain: every entry says what its hash says, no number is missing, every hash follows from the one before, every
 * signed checkpoint fits, those kept here and those that `lines` of the log bring from outside (which a holder of the database alone
 * cannot have changed). Needs the database only; entries may be added and retention may work meanwhile.
 * Shape: what was found; an edited, removed or inserted row is a problem with its number.
 */
export async function verifyJournal(sql: Sql, sha256: Sha256, lines = ''): Promise<JournalReport> {
  for (;;) {
    const report = await walk(sql, sha256, lines)
    if (report.ok) return report
    // Retention took the oldest entries whole under the walk, which saw a gap; it does so once in an hour at most.
    const [oldest] = await sql.all<{ seq: number | null }>(`SELECT min(seq) AS seq FROM journal`)
    if ((oldest?.seq ?? 0) <= report.firstSeq) return report
  }
}

async function walk(sql: Sql, sha256: Sha256, lines: string): Promise<JournalReport> {
  const report: JournalReport = {
    ok: true,
    entries: 0,
    firstSeq: 0,
    lastSeq: 0,
    checkpoints: 0,
    dropped: 0,
    problems: [],
    head: '',
  }
  const problem = (seq: number, what: string) => {
    report.ok = false
    if (report.problems.length < problemsMost) report.problems.push({ seq, what })
  }
  // Asked first: entries that are written from here on may be met or not.
  const [counter] = await sql.all<{ seq: number }>(`SELECT seq FROM sqlite_sequence WHERE name = 'journal'`)
  const kept = await sql.all<Checkpoint>(`SELECT seq, hash, at, kid, signature FROM journal_checkpoints ORDER BY seq`)
  const signed = new Map<number, Uint8Array[]>()
  const outside = parseCheckpointLines(lines)
  if (lines.trim() !== '' && outside.length === 0) problem(0, 'the checkpoints given hold none that can be read')
  for (const checkpoint of [...kept, ...outside]) {
    if (!(await checkSignature(sql, checkpoint))) problem(checkpoint.seq, 'a checkpoint whose signature is wrong')
    else signed.set(checkpoint.seq, [...(signed.get(checkpoint.seq) ?? []), checkpoint.hash])
  }
  report.checkpoints = kept.length + outside.length

  let retained = await readRetained(sql)
  let hash: Uint8Array | undefined
  let expected: number | undefined
  for (let after = 0; ; ) {
    const rows = await sql.all<Row>(
      `SELECT seq, id, at, type, actor, address, repository, digest, tag, detail, count, payload_hash AS payloadHash, hash, dropped
       FROM journal WHERE seq > ? ORDER BY seq LIMIT ${batch}`,
      [after],
    )
    // Emptied since it was read, perhaps: retention says so in the transaction that empties.
    if (rows.some(({ seq, dropped }) => dropped && !retained(seq))) retained = await readRetained(sql)
    for (const row of rows) {
      if (expected === undefined) {
        report.firstSeq = row.seq
        hash = firstHash(row.seq, kept, outside, problem)
      } else if (row.seq !== expected) problem(expected, `entries ${expected} to ${row.seq - 1} are missing`)
      expected = row.seq + 1
      report.entries++
      if (row.dropped) {
        report.dropped++
        if (saysSomething(row as unknown as JournalEntry)) problem(row.seq, 'the entry was edited')
        else if (!retained(row.seq)) problem(row.seq, 'the entry lost its words, and no retention says so')
      } else if (!same(payloadHashOf(row as unknown as JournalEntry, sha256), row.payloadHash))
        problem(row.seq, 'the entry was edited')
      if (hash && !same(chainHash(hash, row.seq, row.payloadHash, sha256), row.hash))
        problem(row.seq, 'the hash does not follow from the one before')
      for (const anchor of signed.get(row.seq) ?? [])
        if (!same(anchor, row.hash)) problem(row.seq, 'a signed checkpoint says another hash')
      hash = row.hash
    }
    after = rows.at(-1)?.seq ?? after
    if (rows.length < batch) break
  }
  report.lastSeq = (expected ?? 1) - 1
  report.head = hash ? hex(hash) : ''
  for (const seq of signed.keys()) if (seq > report.lastSeq) problem(seq, `entries up to ${seq} were signed and are missing`)
  for (const { seq } of outside as CheckpointLine[])
    if (seq < report.firstSeq - 1 && !kept.some((own) => own.seq <= report.firstSeq - 1)) problem(seq, 'older than the journal')
  if ((counter?.seq ?? 0) > report.lastSeq)
    problem(report.lastSeq + 1, `entries up to ${counter?.seq} were written and are missing`)
  return report
}

/** Which entries retention says it emptied. */
async function readRetained(sql: Sql): Promise<(seq: number) => boolean> {
  const lines = await sql.all<{ entries: string | null }>(
    `SELECT CASE WHEN json_valid(detail) AND json_extract(detail, '$.dropped') > 0 THEN json_extract(detail, '$.entries') END AS entries
     FROM journal WHERE type = 'retention_applied' AND dropped = 0`,
  )
  return readRanges(lines.map(({ entries }) => entries ?? ''))
}

/**
 * What the first entry there is must follow: nothing, or the signed checkpoint that retention left in place of older ones. Where lines
 * from outside are there, it must be one of them or signed by a key that they prove: who holds the database can make up any other.
 */
function firstHash(
  seq: number,
  kept: readonly Checkpoint[],
  outside: readonly Checkpoint[],
  problem: (seq: number, what: string) => void,
): Uint8Array | undefined {
  if (seq === 1) return genesis
  const base = kept.find((checkpoint) => checkpoint.seq === seq - 1)
  if (!base) problem(seq, `entries up to ${seq - 1} are missing, and no signed checkpoint stands for them`)
  else if (outside.length > 0 && !outside.some(({ kid }) => kid === base.kid))
    problem(base.seq, 'the checkpoint that stands for older entries has a key that no line of the log knows')
  return base?.hash
}

/** Whether an entry still has any of the words that retention takes. */
const saysSomething = ({ actor, address, repository, digest, tag, detail }: JournalEntry): boolean =>
  [actor, address, repository, digest, tag, detail].some((word) => word !== null && word !== undefined)

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index])
}
