import type { Digest } from '../oci/digest.ts'
import type { Tag } from '../oci/names.ts'
import type { ManifestId } from './manifests.ts'
import type { RepositoryId } from './repositories.ts'
import type { Sql } from './sql.ts'

/**
 * One page of a repository's tags in byte order, starting after `after`.
 * Shape: at most `limit` tags and the tag to continue after, absent on the last page.
 * Errors: none; an unknown repository is an empty page.  Source: distribution-spec, end-8b.
 */
export async function listTags(
  sql: Sql,
  repositoryId: RepositoryId,
  limit: number,
  after: string,
): Promise<{ tags: Tag[]; next?: Tag }> {
  const rows = await sql.all<{ name: Tag }>(`SELECT name FROM tags WHERE repo_id = ? AND name > ? ORDER BY name LIMIT ?`, [
    repositoryId,
    after,
    limit + 1,
  ])
  const tags = rows.slice(0, limit).map((row) => row.name)
  return { tags, next: rows.length > limit ? tags.at(-1) : undefined }
}

/** What a tag names now, or undefined. */
export async function findTag(
  sql: Sql,
  repositoryId: RepositoryId,
  tag: Tag,
): Promise<{ manifestId: ManifestId; digest: Digest } | undefined> {
  const rows = await sql.all<{ manifestId: ManifestId; digest: Digest }>(
    `SELECT t.manifest_id AS manifestId, m.digest FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE t.repo_id = ? AND t.name = ?`,
    [repositoryId, tag],
  )
  return rows[0]
}

/** The tags of one manifest, in byte order. */
export async function tagsOf(sql: Sql, repositoryId: RepositoryId, manifestId: ManifestId): Promise<Tag[]> {
  const rows = await sql.all<{ name: Tag }>(`SELECT name FROM tags WHERE repo_id = ? AND manifest_id = ? ORDER BY name`, [
    repositoryId,
    manifestId,
  ])
  return rows.map((row) => row.name)
}

/** Points a tag at a manifest; `updated_at` moves even when it already does. */
export async function setTag(sql: Sql, repositoryId: RepositoryId, tag: Tag, manifestId: ManifestId, now: number): Promise<void> {
  await sql.run(
    `INSERT INTO tags(repo_id, name, manifest_id, updated_at) VALUES (?, ?, ?, ?)
     ON CONFLICT (repo_id, name) DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at`,
    [repositoryId, tag, manifestId, now],
  )
}

export async function removeTag(sql: Sql, repositoryId: RepositoryId, tag: Tag): Promise<void> {
  await sql.run(`DELETE FROM tags WHERE repo_id = ? AND name = ?`, [repositoryId, tag])
}

/** One line of a tag's history: what it named before and after. Nothing is written where the two are the same. */
export async function addTagHistory(
  sql: Sql,
  entry: { repositoryId: RepositoryId; tag: Tag; old?: Digest; new?: Digest; eventId: string; now: number },
): Promise<void> {
  if (entry.old === entry.new) return
  await sql.run(`INSERT INTO tag_history(repo_id, name, old_digest, new_digest, event_id, at) VALUES (?, ?, ?, ?, ?, ?)`, [
    entry.repositoryId,
    entry.tag,
    entry.old ?? null,
    entry.new ?? null,
    entry.eventId,
    entry.now,
  ])
}

export interface TagRow {
  name: Tag
  digest: Digest
  manifestId: ManifestId
  updatedAt: number
}

const tagColumns = `t.name, m.digest, t.manifest_id AS manifestId, t.updated_at AS updatedAt`

/** Tags with what they name, in byte order after `after`. Shape: at most `limit`. */
export async function listTagRows(
  sql: Sql,
  repositoryId: RepositoryId,
  page: { limit: number; after: string; offset: number },
): Promise<TagRow[]> {
  return await sql.all<TagRow>(
    `SELECT ${tagColumns} FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE t.repo_id = ? AND t.name > ?
     ORDER BY t.name LIMIT ? OFFSET ?`,
    [repositoryId, page.after, page.limit, page.offset],
  )
}

/** Every tag of a repository, newest first; tags of one moment in byte order, backwards. */
export async function tagsByAge(sql: Sql, repositoryId: RepositoryId): Promise<TagRow[]> {
  return await sql.all<TagRow>(
    `SELECT ${tagColumns} FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE t.repo_id = ? ORDER BY t.updated_at DESC, t.name DESC`,
    [repositoryId],
  )
}

export interface TagChangeRow {
  id: number
  at: number
  oldDigest: Digest | null
  newDigest: Digest | null
  eventId: string
  actor: string | null
  actorName: string | null
}

/** What a tag named and when that changed, newest first, before row `before`. Shape: at most `limit`. */
export async function tagHistory(
  sql: Sql,
  repositoryId: RepositoryId,
  tag: Tag,
  page: { limit: number; before: number },
): Promise<TagChangeRow[]> {
  return await sql.all<TagChangeRow>(
    `SELECT h.id, h.at, h.old_digest AS oldDigest, h.new_digest AS newDigest, h.event_id AS eventId, j.actor, a.name AS actorName
     FROM tag_history h LEFT JOIN journal j ON j.id = h.event_id LEFT JOIN accounts a ON a.subject = j.actor
     WHERE h.repo_id = ? AND h.name = ? AND h.id < ? ORDER BY h.id DESC LIMIT ?`,
    [repositoryId, tag, page.before, page.limit],
  )
}

/** What a tag named at a time (ms since 1970); undefined where it did not exist or named nothing. */
export async function tagAt(
  sql: Sql,
  repositoryId: RepositoryId,
  tag: Tag,
  at: number,
): Promise<{ digest: Digest; at: number } | undefined> {
  const [row] = await sql.all<{ digest: Digest | null; at: number }>(
    `SELECT new_digest AS digest, at FROM tag_history WHERE repo_id = ? AND name = ? AND at <= ? ORDER BY at DESC, id DESC LIMIT 1`,
    [repositoryId, tag, at],
  )
  return row?.digest ? { digest: row.digest, at: row.at } : undefined
}
