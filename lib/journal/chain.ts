import type { Sql } from '../metadata/sql.ts'

/** One entry as a change makes it. `id` is random; `detail` is JSON; `count` is how often, where entries are gathered. */
export interface JournalEntry {
  readonly id: string
  /** ms since 1970 */
  readonly at: number
  readonly type: string
  readonly actor: string
  readonly address?: string
  readonly repository?: string
  readonly digest?: string
  readonly tag?: string
  readonly detail?: string
  readonly count?: number
}

/** SHA-256 without waiting: the chain is written while the write lock is held. */
export type Sha256 = (bytes: Uint8Array) => Uint8Array

/** What the first entry is chained to. */
export const genesis = new Uint8Array(32)

/**
 * Appends the entries of one commit to the chain: gap-free numbers, each hash over the hash before it, its number and the hash of what it
 * says. Over the *hash* of what it says, so that retention can drop the words and the chain stays provable (J3).
 * Called once a commit, at its end and outside any savepoint.
 */
export async function appendToChain(sql: Sql, entries: readonly JournalEntry[], sha256: Sha256): Promise<void> {
  if (entries.length === 0) return
  const [head] = await sql.all<{ seq: number; hash: Uint8Array }>(`SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1`)
  let seq = head?.seq ?? 0
  let hash = head?.hash ?? genesis
  for (const entry of entries) {
    seq++
    const payloadHash = payloadHashOf(entry, sha256)
    hash = chainHash(hash, seq, payloadHash, sha256)
    await sql.run(
      `INSERT INTO journal(seq, id, at, type, actor, address, repository, digest, tag, detail, count, payload_hash, hash)
       VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)`,
      [
        seq,
        entry.id,
        entry.at,
        entry.type,
        entry.actor,
        entry.address ?? null,
        entry.repository ?? null,
        entry.digest ?? null,
        entry.tag ?? null,
        entry.detail ?? null,
        entry.count ?? 1,
        payloadHash,
        hash,
      ],
    )
  }
}

/** The hash of what an entry says; every field has its place, an absent one is null. */
export function payloadHashOf(entry: { [K in keyof JournalEntry]: JournalEntry[K] | null }, sha256: Sha256): Uint8Array {
  const { id, at, type, actor, address, repository, digest, tag, detail, count } = entry
  const fields = [
    id,
    at,
    type,
    actor,
    address ?? null,
    repository ?? null,
    digest ?? null,
    tag ?? null,
    detail ?? null,
    count ?? 1,
  ]
  return sha256(new TextEncoder().encode(JSON.stringify(fields)))
}

/** The next hash: of 32 bytes of the one before, 8 of the number, 32 of the payload's hash. */
export function chainHash(before: Uint8Array, seq: number, payloadHash: Uint8Array, sha256: Sha256): Uint8Array {
  const bytes = new Uint8Array(72)
  bytes.set(before)
  new DataView(bytes.buffer).setBigUint64(32, BigInt(seq))
  bytes.set(payloadHash, 40)
  return sha256(bytes)
}
