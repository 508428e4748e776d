import type { RepositoryName } from '../oci/names.ts'
import type { Sql } from './sql.ts'

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
