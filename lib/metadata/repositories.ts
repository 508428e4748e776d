import type { RepositoryName } from '../oci/names.ts'
import type { Sql } from './sql.ts'
import { discardUpload } from './uploads.ts'

export type RepositoryId = number & { readonly __brand: 'RepositoryId' }

/** The living, visible repository of that name, or undefined. */
export async function findRepository(sql: Sql, name: string): Promise<RepositoryId | undefined> {
  const rows = await sql.all<{ id: RepositoryId }>(
    `SELECT id FROM repositories WHERE name = ? AND deleted_epoch IS NULL AND visible = 1`,
    [name],
  )
  return rows[0]?.id
}

/** The id of a name, made where it is new. A new one stays invisible until `showRepository`. */
export async function ensureRepository(sql: Sql, name: RepositoryName, now: number): Promise<RepositoryId> {
  const found = await sql.all<{ id: RepositoryId }>(`SELECT id FROM repositories WHERE name = ? AND deleted_epoch IS NULL`, [
    name,
  ])
  if (found[0]) return found[0].id
  const made = await sql.all<{ id: RepositoryId }>(`INSERT INTO repositories(name, created_at) VALUES (?, ?) RETURNING id`, [
    name,
    now,
  ])
  return (made[0] as { id: RepositoryId }).id
}

/** Makes a repository visible: it has its first link. */
export async function showRepository(sql: Sql, id: RepositoryId): Promise<void> {
  await sql.run(`UPDATE repositories SET visible = 1 WHERE id = ? AND visible = 0`, [id])
}

/**
 * Names of visible repositories in byte order, starting after `after`.
 * Shape: at most `limit` names.  Source: distribution's `_catalog`.
 */
export async function listRepositories(sql: Sql, limit: number, after: string): Promise<RepositoryName[]> {
  const rows = await sql.all<{ name: RepositoryName }>(
    `SELECT name FROM repositories WHERE deleted_epoch IS NULL AND visible = 1 AND name > ? ORDER BY name LIMIT ?`,
    [after, limit],
  )
  return rows.map((row) => row.name)
}

export interface RepositorySummary {
  name: RepositoryName
  tags: number
  manifests: number
  bytes: number
  createdAt: number
}

/** What there is in a repository, by count. */
export async function summarize(sql: Sql, name: string): Promise<RepositorySummary | undefined> {
  const [row] = await sql.all<RepositorySummary>(
    `SELECT r.name, r.logical_bytes AS bytes, r.created_at AS createdAt,
       (SELECT count(*) FROM tags t WHERE t.repo_id = r.id) AS tags,
       (SELECT count(*) FROM manifests m WHERE m.repo_id = r.id AND m.deleted_epoch IS NULL) AS manifests
     FROM repositories r WHERE r.name = ? AND r.deleted_epoch IS NULL AND r.visible = 1`,
    [name],
  )
  return row
}

/**
 * S19: a tombstone. The name is free at once, uploads under way are over, and what the repository held is collected in its own time.
 */
export async function deleteRepository(sql: Sql, id: RepositoryId): Promise<void> {
  await sql.run(`UPDATE repositories SET deleted_epoch = (SELECT epoch FROM instance) WHERE id = ?`, [id])
  for (const { inc } of await sql.all<{ inc: string }>(`SELECT inc FROM uploads WHERE repo_id = ? ORDER BY inc`, [id]))
    await discardUpload(sql, inc)
}
