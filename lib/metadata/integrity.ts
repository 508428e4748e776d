import type { Digest } from '../oci/digest.ts'
import type { Sql } from './sql.ts'
import { givenUp } from './undelete.ts'

/** Rows of one page of a look over everything. */
const page = 500

export interface BlobRow {
  digest: Digest
  inc: string
  size: number
  state: number
}

/** How much there is to look at. */
export async function countEverything(
  sql: Sql,
): Promise<{ manifests: number; tags: number; links: number; blobs: number; bytes: number }> {
  const [row] = await sql.all<{ manifests: number; tags: number; links: number; blobs: number; bytes: number }>(
    `SELECT (SELECT count(*) FROM manifests) AS manifests, (SELECT count(*) FROM tags) AS tags, (SELECT count(*) FROM repo_blobs) AS links,
       (SELECT count(*) FROM blobs) AS blobs, (SELECT coalesce(sum(size), 0) FROM blobs) AS bytes`,
  )
  return row as { manifests: number; tags: number; links: number; blobs: number; bytes: number }
}

/** Stored blobs in byte order of their digests, after one of them: a page, empty at the end. */
export async function blobsAfter(sql: Sql, after: string, limit = page): Promise<BlobRow[]> {
  return await sql.all<BlobRow>(`SELECT digest, inc, size, state FROM blobs WHERE digest > ? ORDER BY digest LIMIT ?`, [
    after,
    limit,
  ])
}

export interface ManifestRow {
  id: number
  repoId: number
  repository: string
  digest: Digest
  mediaType: string
  size: number
  deleted: number | null
}

/** Manifests, also deleted ones that may still come back, by id: what is being collected with its repository is in part gone already. */
export async function manifestsAfter(sql: Sql, after: number): Promise<ManifestRow[]> {
  return await sql.all<ManifestRow>(
    `SELECT m.id, m.repo_id AS repoId, r.name AS repository, m.digest, m.media_type AS mediaType, m.size,
       coalesce(m.deleted_epoch, r.deleted_epoch) AS deleted
     FROM manifests m JOIN repositories r ON r.id = m.repo_id
     WHERE m.id > ? AND r.deleted_epoch IS NOT ${givenUp} ORDER BY m.id LIMIT ${page}`,
    [after],
  )
}

export interface TargetRow {
  digest: Digest
  kind: 'config' | 'layer' | 'child' | 'subject'
  /** the target is linked here, and visibly so */
  linked: number
  visible: number
  /** the target is a manifest here, and a live one */
  manifest: number
  live: number
}

/** What a manifest's references find in its repository, as one statement sees it; undefined where the manifest has gone or changed state. */
export async function targetsOf(sql: Sql, manifest: ManifestRow): Promise<TargetRow[] | undefined> {
  const rows = await sql.all<TargetRow & { same: number }>(
    `SELECT f.digest, f.kind, l.digest IS NOT NULL AS linked, l.digest IS NOT NULL AND l.hidden_epoch IS NULL AS visible,
       c.id IS NOT NULL AS manifest, c.id IS NOT NULL AND c.deleted_epoch IS NULL AS live,
       coalesce(m.deleted_epoch, r.deleted_epoch) IS ? AS same
     FROM manifests m JOIN repositories r ON r.id = m.repo_id LEFT JOIN refs f ON f.manifest_id = m.id
     LEFT JOIN repo_blobs l ON l.repo_id = m.repo_id AND l.digest = f.digest
     LEFT JOIN manifests c ON c.repo_id = m.repo_id AND c.digest = f.digest
     WHERE m.id = ? ORDER BY f.digest, f.kind`,
    [manifest.deleted, manifest.id],
  )
  if (rows.length === 0 || rows[0]?.same === 0) return undefined
  return rows.filter((row) => row.digest !== null)
}

/** Whether somebody deleted a manifest of this repository, as far as the journal reaches. */
export async function wasDeleted(sql: Sql, repository: string, digest: Digest): Promise<boolean> {
  const rows = await sql.all(
    `SELECT 1 AS one FROM journal WHERE repository = ? AND digest = ? AND type = 'manifest_deleted' LIMIT 1`,
    [repository, digest],
  )
  return rows.length > 0
}

/** Links that no blob's row stands behind. */
export async function linksWithoutBlob(sql: Sql): Promise<{ digest: Digest; repository: string }[]> {
  return await sql.all(
    `SELECT l.digest, r.name AS repository FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id
     WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = l.digest) ORDER BY l.digest, r.name LIMIT 1000`,
  )
}

/** Tags whose manifest is gone, deleted, or of another repository. */
export async function tagsWithoutManifest(sql: Sql): Promise<{ tag: string; repository: string }[]> {
  return await sql.all(
    `SELECT t.name AS tag, r.name AS repository FROM tags t JOIN repositories r ON r.id = t.repo_id
     WHERE r.deleted_epoch IS NULL AND NOT EXISTS (
       SELECT 1 FROM manifests m WHERE m.id = t.manifest_id AND m.repo_id = t.repo_id AND m.deleted_epoch IS NULL)
     ORDER BY r.name, t.name LIMIT 1000`,
  )
}

/** Incarnations in the trash that a blob or an upload still has: their files would be taken. */
export async function aliveInTrash(sql: Sql): Promise<{ inc: string; digest: Digest | null }[]> {
  return await sql.all(
    `SELECT t.inc, coalesce(b.digest, t.digest) AS digest FROM trash t LEFT JOIN blobs b ON b.inc = t.inc
     WHERE b.inc IS NOT NULL OR EXISTS (SELECT 1 FROM uploads u WHERE u.inc = t.inc) ORDER BY t.inc LIMIT 1000`,
  )
}

/** Bodies that no manifest has. */
export async function bodiesWithoutManifest(sql: Sql): Promise<{ digest: Digest }[]> {
  return await sql.all(
    `SELECT digest FROM manifest_bodies b WHERE NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = b.digest) ORDER BY digest LIMIT 1000`,
  )
}

/** Uploads under way, by incarnation. */
export async function uploadsAfter(sql: Sql, after: string): Promise<{ inc: string; repository: string }[]> {
  return await sql.all(
    `SELECT u.inc, r.name AS repository FROM uploads u JOIN repositories r ON r.id = u.repo_id WHERE u.inc > ? ORDER BY u.inc LIMIT ${page}`,
    [after],
  )
}

/** Repositories, visible or not, that a digest matters to; at most eight, by name. */
export async function repositoriesOf(sql: Sql, digest: Digest): Promise<string[]> {
  const rows = await sql.all<{ name: string }>(
    `SELECT DISTINCT r.name FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id WHERE l.digest = ? ORDER BY r.name LIMIT 8`,
    [digest],
  )
  return rows.map((row) => row.name)
}

/** Blobs that are marked as damaged, after one of them. */
export async function damagedBlobs(sql: Sql, after: string): Promise<BlobRow[]> {
  return await sql.all<BlobRow>(
    `SELECT digest, inc, size, state FROM blobs WHERE state = 1 AND digest > ? ORDER BY digest LIMIT ${page}`,
    [after],
  )
}

/** How many blobs are marked as damaged, counted up to `most`. */
export async function countDamaged(sql: Sql, most: number): Promise<number> {
  const [row] = await sql.all<{ n: number }>(`SELECT count(*) AS n FROM (SELECT 1 FROM blobs WHERE state = 1 LIMIT ?)`, [most])
  return row?.n ?? 0
}

/** Repositories that show a digest to their readers; at most 64, by name. */
export async function visibleRepositories(sql: Sql, digest: Digest): Promise<{ id: number; name: string }[]> {
  return await sql.all(
    `SELECT r.id, r.name FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id
     WHERE l.digest = ? AND l.hidden_epoch IS NULL AND r.deleted_epoch IS NULL ORDER BY r.name LIMIT 64`,
    [digest],
  )
}
