import type { Digest } from '../oci/digest.ts'
import type { Tag } from '../oci/names.ts'
import type { ManifestId } from './manifests.ts'
import type { RepositoryId } from './repositories.ts'
import type { Sql } from './sql.ts'

/** The epoch of deletion of what garbage collection has begun to take: before every horizon. */
export const givenUp = Number.MIN_SAFE_INTEGER

export interface DeletedManifest {
  id: ManifestId
  digest: Digest
  mediaType: string
}

/** The newest deleted repository of a name, if garbage collection has not taken it yet. */
export async function findDeletedRepository(sql: Sql, name: string): Promise<RepositoryId | undefined> {
  const [row] = await sql.all<{ id: RepositoryId }>(
    `SELECT id FROM repositories WHERE name = ? AND deleted_epoch > ${givenUp} ORDER BY id DESC LIMIT 1`,
    [name],
  )
  return row?.id
}

/** Brings a repository back as it was. Errors: a constraint failure where its name is taken. */
export async function restoreRepository(sql: Sql, id: RepositoryId): Promise<void> {
  await sql.run(`UPDATE repositories SET deleted_epoch = NULL WHERE id = ?`, [id])
}

/** A deleted manifest, or undefined. */
export async function findDeletedManifest(
  sql: Sql,
  repositoryId: RepositoryId,
  digest: Digest,
): Promise<DeletedManifest | undefined> {
  const [row] = await sql.all<DeletedManifest>(
    `SELECT id, digest, media_type AS mediaType FROM manifests WHERE repo_id = ? AND digest = ? AND deleted_epoch IS NOT NULL`,
    [repositoryId, digest],
  )
  return row
}

/**
 * What a reference of a deleted manifest would find: a whole blob of the repository (hidden or not), a live or a deleted manifest of it,
 * a blob that is damaged, or nothing.
 */
export async function findTarget(
  sql: Sql,
  repositoryId: RepositoryId,
  digest: Digest,
  orManifest: boolean,
): Promise<'there' | 'deleted' | 'damaged' | 'missing'> {
  const [row] = await sql.all<{ state: number | null; live: number | null }>(
    `SELECT (SELECT b.state FROM repo_blobs l JOIN blobs b ON b.digest = l.digest WHERE l.repo_id = ?1 AND l.digest = ?2) AS state,
       (SELECT m.deleted_epoch IS NULL FROM manifests m WHERE m.repo_id = ?1 AND m.digest = ?2) AS live`,
    [repositoryId, digest],
  )
  if (row?.state === 0) return 'there'
  if (orManifest && row?.live !== null) return row?.live === 1 ? 'there' : 'deleted'
  return row?.state === 1 ? 'damaged' : 'missing'
}

/** Makes a manifest live again, with the links it needs. */
export async function restoreManifest(sql: Sql, repositoryId: RepositoryId, id: ManifestId): Promise<void> {
  await sql.run(`UPDATE manifests SET deleted_epoch = NULL, epoch = (SELECT epoch FROM instance) WHERE id = ?`, [id])
  await sql.run(
    `UPDATE repo_blobs SET hidden_epoch = NULL, epoch = (SELECT epoch FROM instance)
     WHERE repo_id = ? AND hidden_epoch IS NOT NULL AND digest IN (SELECT digest FROM refs WHERE manifest_id = ?)`,
    [repositoryId, id],
  )
}

/** Tags that named a digest when they were deleted, as their history says; each that names something now is left out. */
export async function lostTags(sql: Sql, repositoryId: RepositoryId, digest: Digest): Promise<{ name: Tag; taken: boolean }[]> {
  const rows = await sql.all<{ name: Tag; taken: number }>(
    `SELECT h.name, EXISTS (SELECT 1 FROM tags t WHERE t.repo_id = h.repo_id AND t.name = h.name) AS taken
     FROM tag_history h WHERE h.repo_id = ? AND h.old_digest = ? AND h.new_digest IS NULL
     AND h.id = (SELECT max(g.id) FROM tag_history g WHERE g.repo_id = h.repo_id AND g.name = h.name AND g.new_digest IS NULL)
     ORDER BY h.name`,
    [repositoryId, digest],
  )
  return rows.map(({ name, taken }) => ({ name, taken: taken !== 0 }))
}

/** What a tag named when it was deleted, if that is the last that happened to it. */
export async function lastOfTag(sql: Sql, repositoryId: RepositoryId, tag: Tag): Promise<Digest | undefined> {
  const [row] = await sql.all<{ old: Digest | null; new: Digest | null }>(
    `SELECT old_digest AS old, new_digest AS new FROM tag_history WHERE repo_id = ? AND name = ? ORDER BY id DESC LIMIT 1`,
    [repositoryId, tag],
  )
  return row && row.new === null && row.old !== null ? row.old : undefined
}
