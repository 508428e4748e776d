import type { Digest } from '../oci/digest.ts'
import type { RepositoryName } from '../oci/names.ts'
import { type RepositoryId, showRepository } from './repositories.ts'
import type { Sql } from './sql.ts'

/** A blob as one repository sees it. `linkEpoch` is when the link was last wanted, `epoch` the storage epoch at the look. */
export interface LinkedBlob {
  repositoryId: RepositoryId
  inc: string
  size: number
  linkEpoch: number
  epoch: number
}

/** The blob of that digest that this repository may read (T0), or undefined: absent, hidden, suspect and foreign are one. */
export async function findLinkedBlob(sql: Sql, repository: RepositoryName, digest: Digest): Promise<LinkedBlob | undefined> {
  const rows = await sql.all<LinkedBlob>(
    `SELECT l.repo_id AS repositoryId, b.inc, b.size, l.epoch AS linkEpoch, (SELECT epoch FROM instance) AS epoch
     FROM repositories r JOIN repo_blobs l ON l.repo_id = r.id JOIN blobs b ON b.digest = l.digest
     WHERE r.name = ? AND r.deleted_epoch IS NULL AND l.digest = ? AND l.hidden_epoch IS NULL AND b.state = 0`,
    [repository, digest],
  )
  return rows[0]
}

/** The stored blob of a digest, whoever has it: only for judging the health of its file, never for answering a client. */
export async function findStoredBlob(
  sql: Sql,
  digest: Digest,
): Promise<{ inc: string; size: number; state: number } | undefined> {
  const rows = await sql.all<{ inc: string; size: number; state: number }>(
    `SELECT inc, size, state FROM blobs WHERE digest = ?`,
    [digest],
  )
  return rows[0]
}

/** T4: keeps a link warm for whoever is about to push a manifest with it. Shape: whether the link was there. */
export async function touchLink(sql: Sql, repositoryId: RepositoryId, digest: Digest): Promise<boolean> {
  const changed = await sql.run(
    `UPDATE repo_blobs SET epoch = (SELECT epoch FROM instance) WHERE repo_id = ? AND digest = ? AND hidden_epoch IS NULL`,
    [repositoryId, digest],
  )
  return changed > 0
}

/** Whether a manifest that is not deleted names the digest, in this repository. */
export async function isReferenced(sql: Sql, repositoryId: RepositoryId, digest: Digest): Promise<boolean> {
  const rows = await sql.all(
    `SELECT 1 AS one FROM refs f JOIN manifests m ON m.id = f.manifest_id
     WHERE f.digest = ? AND f.kind <> 'subject' AND m.repo_id = ? AND m.deleted_epoch IS NULL LIMIT 1`,
    [digest, repositoryId],
  )
  return rows.length > 0
}

/** Links a blob that is stored and healthy, or brings its hidden link back; makes the repository visible. */
export async function linkBlob(sql: Sql, repositoryId: RepositoryId, digest: Digest): Promise<void> {
  await sql.run(
    `INSERT INTO repo_blobs(repo_id, digest, epoch) VALUES (?, ?, (SELECT epoch FROM instance))
     ON CONFLICT (repo_id, digest) DO UPDATE SET epoch = excluded.epoch, hidden_epoch = NULL`,
    [repositoryId, digest],
  )
  await showRepository(sql, repositoryId)
}

/**
 * T3, the storing half: the file `<digest>.<inc>` is durable, its upload's row has just gone in this transaction.
 * A healthy copy stays and the new one is trash; a damaged one (`seenDamaged`: the incarnation a look at the disk found missing or
 * short) is replaced, so that pushing again heals. Shape: which of the three it was.
 */
export async function storeBlob(
  sql: Sql,
  blob: { digest: Digest; inc: string; size: number },
  seenDamaged: string | undefined,
): Promise<'stored' | 'healed' | 'kept'> {
  const stored = await findStoredBlob(sql, blob.digest)
  if (!stored) {
    await sql.run(`INSERT INTO blobs(digest, inc, size, epoch) VALUES (?, ?, ?, (SELECT epoch FROM instance))`, [
      blob.digest,
      blob.inc,
      blob.size,
    ])
    return 'stored'
  }
  if (stored.state === 1 || stored.inc === seenDamaged) {
    await sql.run(
      `UPDATE blobs SET inc = ?, size = ?, state = 0, epoch = (SELECT epoch FROM instance) WHERE digest = ? AND inc = ?`,
      [blob.inc, blob.size, blob.digest, stored.inc],
    )
    await sql.run(`INSERT INTO trash(inc, digest, epoch) VALUES (?, ?, (SELECT epoch FROM instance))`, [stored.inc, blob.digest])
    return 'healed'
  }
  // Nobody ever saw this copy, so nobody reads it: no quarantine.
  await sql.run(`INSERT INTO trash(inc, digest, epoch) VALUES (?, ?, 0)`, [blob.inc, blob.digest])
  await sql.run(`UPDATE blobs SET epoch = (SELECT epoch FROM instance) WHERE digest = ?`, [blob.digest])
  return 'kept'
}

/** Marks one incarnation as damaged: it counts as absent until a push of its digest heals it. Shape: whether it was not yet marked. */
export async function markSuspect(sql: Sql, digest: Digest, inc: string): Promise<boolean> {
  return (await sql.run(`UPDATE blobs SET state = 1 WHERE digest = ? AND inc = ? AND state = 0`, [digest, inc])) > 0
}

/** Takes the mark away from an incarnation whose file was read whole. Shape: whether it had one. */
export async function clearSuspect(sql: Sql, digest: Digest, inc: string): Promise<boolean> {
  return (await sql.run(`UPDATE blobs SET state = 0 WHERE digest = ? AND inc = ? AND state = 1`, [digest, inc])) > 0
}

/** Hides a link; its bytes stay while a deleted manifest may come back. */
export async function hideLink(sql: Sql, repositoryId: RepositoryId, digest: Digest): Promise<void> {
  await sql.run(
    `UPDATE repo_blobs SET hidden_epoch = (SELECT epoch FROM instance), epoch = (SELECT epoch FROM instance)
     WHERE repo_id = ? AND digest = ?`,
    [repositoryId, digest],
  )
}

/**
 * Repositories that hold a digest, healthy and visible; the one named first, at most 64.
 * Shape: names in no order that tells anything.  Source: end-11 without `from`.
 */
export async function repositoriesWith(sql: Sql, digest: Digest, first: RepositoryName): Promise<RepositoryName[]> {
  const rows = await sql.all<{ name: RepositoryName }>(
    `SELECT r.name FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id JOIN blobs b ON b.digest = l.digest
     WHERE l.digest = ? AND l.hidden_epoch IS NULL AND b.state = 0 AND r.deleted_epoch IS NULL
     ORDER BY r.name = ? DESC, l.repo_id LIMIT 64`,
    [digest, first],
  )
  return rows.map((row) => row.name)
}
