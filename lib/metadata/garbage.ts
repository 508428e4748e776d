import type { Digest } from '../oci/digest.ts'
import type { Sql } from './sql.ts'

/** Below these epochs things go: `cold` for what nobody wanted lately, `deleted` for what was deleted before the undelete window. */
export interface Horizon {
  cold: number
  deleted: number
}

/** Rows looked at in one statement, and changed in one transaction: each holds the reader or the writer for milliseconds. */
const looked = 2_000
const changed = 256

/** T7a: drops manifests that were deleted long enough ago, or whose repository was, with their references. Shape: how many; 0 ends. */
export async function dropManifests(sql: Sql, { deleted }: Horizon): Promise<number> {
  const rows = await sql.all<{ id: number; digest: Digest }>(
    `SELECT id, digest FROM manifests WHERE deleted_epoch <= ? ORDER BY deleted_epoch, id LIMIT ${changed}`,
    [deleted],
  )
  const left = changed - rows.length
  if (left > 0)
    for (const { id } of await sql.all<{ id: number }>(
      `SELECT id FROM repositories WHERE deleted_epoch <= ? ORDER BY id LIMIT 16`,
      [deleted],
    )) {
      await sql.run(
        `DELETE FROM tags WHERE repo_id = ? AND name IN (SELECT name FROM tags WHERE repo_id = ? ORDER BY name LIMIT 1000)`,
        [id, id],
      )
      rows.push(
        ...(await sql.all<{ id: number; digest: Digest }>(
          `SELECT m.id, m.digest FROM manifests m WHERE m.repo_id = ? AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repo_id = m.repo_id AND t.manifest_id = m.id)
           ORDER BY m.id LIMIT ?`,
          [id, left],
        )),
      )
      await sql.run(
        `DELETE FROM repositories WHERE id = ? AND NOT EXISTS (SELECT 1 FROM manifests WHERE repo_id = ?) AND NOT EXISTS (SELECT 1 FROM repo_blobs WHERE repo_id = ?)
         AND NOT EXISTS (SELECT 1 FROM uploads WHERE repo_id = ?) AND NOT EXISTS (SELECT 1 FROM tags WHERE repo_id = ?)`,
        [id, id, id, id, id],
      )
    }
  for (const { id, digest } of rows) {
    await sql.run(`DELETE FROM manifests WHERE id = ?`, [id])
    await sql.run(`DELETE FROM manifest_bodies WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM manifests WHERE digest = ?)`, [
      digest,
      digest,
    ])
  }
  return rows.length
}

const linkIsGarbage = `l.epoch <= ? AND coalesce(l.hidden_epoch <= ?, 1) AND NOT EXISTS (
  SELECT 1 FROM refs f JOIN manifests m ON m.id = f.manifest_id WHERE f.digest = l.digest AND m.repo_id = l.repo_id)`

export interface LinkKey {
  repoId: number
  digest: string
}

/** A look at the links after a key: those that seem to be garbage, and where to go on (undefined at the end). */
export async function lookAtLinks(
  sql: Sql,
  after: LinkKey,
  { cold, deleted }: Horizon,
): Promise<{ found: LinkKey[]; next?: LinkKey }> {
  const rows = await sql.all<LinkKey & { garbage: number }>(
    `SELECT l.repo_id AS repoId, l.digest, ${linkIsGarbage} AS garbage
     FROM (SELECT * FROM repo_blobs WHERE (repo_id, digest) > (?, ?) ORDER BY repo_id, digest LIMIT ${looked}) l`,
    [cold, deleted, after.repoId, after.digest],
  )
  return { found: rows.filter((row) => row.garbage !== 0), next: rows.length === looked ? rows.at(-1) : undefined }
}

/** T7b: drops these links, if they still are garbage: the look was only a hint. Shape: how many went. */
export async function dropLinks(sql: Sql, links: readonly LinkKey[], { cold, deleted }: Horizon): Promise<number> {
  let count = 0
  for (const { repoId, digest } of links)
    count += await sql.run(`DELETE FROM repo_blobs AS l WHERE l.repo_id = ? AND l.digest = ? AND ${linkIsGarbage}`, [
      repoId,
      digest,
      cold,
      deleted,
    ])
  return count
}

const blobIsGarbage = `b.epoch <= ? AND NOT EXISTS (SELECT 1 FROM repo_blobs l WHERE l.digest = b.digest)`

/** The same look for blobs that no repository has any more. */
export async function lookAtBlobs(sql: Sql, after: string, { cold }: Horizon): Promise<{ found: string[]; next?: string }> {
  const rows = await sql.all<{ digest: string; garbage: number }>(
    `SELECT b.digest, ${blobIsGarbage} AS garbage FROM (SELECT * FROM blobs WHERE digest > ? ORDER BY digest LIMIT ${looked}) b`,
    [cold, after],
  )
  return {
    found: rows.filter((row) => row.garbage !== 0).map((row) => row.digest),
    next: rows.length === looked ? rows.at(-1)?.digest : undefined,
  }
}

/** T7c: drops these blobs' rows, if nothing has them still; their incarnations are trash. Shape: how many, and their bytes. */
export async function dropBlobs(
  sql: Sql,
  digests: readonly string[],
  { cold }: Horizon,
): Promise<{ blobs: number; bytes: number }> {
  let blobs = 0
  let bytes = 0
  for (const digest of digests) {
    const [gone] = await sql.all<{ inc: string; size: number }>(
      `DELETE FROM blobs AS b WHERE b.digest = ? AND ${blobIsGarbage} RETURNING inc, size`,
      [digest, cold],
    )
    if (!gone) continue
    await sql.run(`INSERT INTO trash(inc, digest, epoch) VALUES (?, ?, (SELECT epoch FROM instance))`, [gone.inc, digest])
    blobs++
    bytes += gone.size
  }
  return { blobs, bytes }
}

/**
 * T8's look: incarnations after `after` whose files may go, and none while a pin holds. Pins and trash are read in one statement: what is
 * in the trash before a pin is made is in no copy of the database that is made under it.
 */
export async function deadIncarnations(
  sql: Sql,
  { after, quarantineAfter }: { after: string; quarantineAfter: number },
): Promise<{ incarnation: string; digest: Digest | null }[]> {
  return await sql.all<{ incarnation: string; digest: Digest | null }>(
    `SELECT inc AS incarnation, digest FROM trash WHERE inc > ? AND (digest IS NULL OR epoch <= (SELECT epoch FROM instance) - ?) AND NOT ${pinned}
     ORDER BY inc LIMIT 250`,
    [after, quarantineAfter],
  )
}

/** The number of the next removal of files. It only grows, and is durable before the first file goes. */
export async function nextReap(sql: Sql): Promise<number> {
  const [row] = await sql.all<{ seq: number }>(`UPDATE instance SET reap_seq = reap_seq + 1 RETURNING reap_seq AS seq`)
  return row?.seq ?? 0
}

/** Whether a backup holds what it copies. Pins are over two epochs after they were made or renewed. */
export const pinned = `EXISTS (SELECT 1 FROM gc_pins WHERE epoch > (SELECT epoch FROM instance) - 2)`

/** What a collection with this horizon would take, exactly, if nothing happened meanwhile. */
export async function foresee(
  sql: Sql,
  { cold, deleted }: Horizon,
): Promise<{ manifests: number; links: number; blobs: number; bytes: number }> {
  const gone = `SELECT m.id FROM manifests m JOIN repositories r ON r.id = m.repo_id WHERE m.deleted_epoch <= ? OR r.deleted_epoch <= ?`
  const survives = `l.epoch > ? OR coalesce(l.hidden_epoch > ?, 0) OR EXISTS (
    SELECT 1 FROM refs f JOIN manifests m ON m.id = f.manifest_id WHERE f.digest = l.digest AND m.repo_id = l.repo_id AND m.id NOT IN (${gone}))`
  const [manifests] = await sql.all<{ n: number }>(`SELECT count(*) AS n FROM (${gone})`, [deleted, deleted])
  const [links] = await sql.all<{ n: number }>(`SELECT count(*) AS n FROM repo_blobs l WHERE NOT (${survives})`, [
    cold,
    deleted,
    deleted,
    deleted,
  ])
  const [blobs] = await sql.all<{ n: number; bytes: number }>(
    `SELECT count(*) AS n, coalesce(sum(b.size), 0) AS bytes FROM blobs b
     WHERE b.epoch <= ? AND NOT EXISTS (SELECT 1 FROM repo_blobs l WHERE l.digest = b.digest AND (${survives}))`,
    [cold, cold, deleted, deleted, deleted],
  )
  return { manifests: manifests?.n ?? 0, links: links?.n ?? 0, blobs: blobs?.n ?? 0, bytes: blobs?.bytes ?? 0 }
}

/** `changed` at a time. */
export function* batches<T>(items: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < items.length; at += changed) yield items.slice(at, at + changed)
}
