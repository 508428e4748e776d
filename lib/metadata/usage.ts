import type { RepositoryName } from '../oci/names.ts'
import type { Sql } from './sql.ts'

/** Rows that one statement looks at: it holds the reader and the event loop for milliseconds, and requests have their turn before the next. */
const looked = 1_000
const listed = 1_000

/** Bytes of the blobs that something holds, and of those that nothing else does. */
export interface Usage {
  name: RepositoryName
  size: number
  own: number
}

/**
 * The space of every repository, the one first that has most of its own. Shape: at most a thousand. Each is counted as it was when it was
 * looked at: pushes and deletes go on meanwhile.
 */
export async function usageByRepository(sql: Sql, atOnce = looked): Promise<Usage[]> {
  const usage = new Map<number, Usage>()
  for (let at = { repoId: 0, digest: '' }; ; await turn()) {
    const rows = await sql.all<Usage & { repoId: number; digest: string; counts: number }>(
      `SELECT w.repo_id AS repoId, max(w.digest) AS digest, r.name, r.deleted_epoch IS NULL AND max(w.hidden_epoch IS NULL) AS counts,
         sum(iif(w.hidden_epoch IS NULL, b.size, 0)) AS size,
         sum(iif(w.hidden_epoch IS NULL AND NOT EXISTS (
           SELECT 1 FROM repo_blobs o JOIN repositories p ON p.id = o.repo_id
           WHERE o.digest = w.digest AND o.repo_id <> w.repo_id AND o.hidden_epoch IS NULL AND p.deleted_epoch IS NULL), b.size, 0)) AS own
       FROM (SELECT * FROM repo_blobs WHERE (repo_id, digest) > (?, ?) ORDER BY repo_id, digest LIMIT ?) w
       JOIN blobs b ON b.digest = w.digest JOIN repositories r ON r.id = w.repo_id GROUP BY w.repo_id ORDER BY w.repo_id`,
      [at.repoId, at.digest, atOnce],
    )
    for (const { repoId, name, size, own, counts } of rows) {
      const before = usage.get(repoId)
      if (counts !== 0) usage.set(repoId, { name, size: size + (before?.size ?? 0), own: own + (before?.own ?? 0) })
    }
    const last = rows.at(-1)
    if (!last) return [...usage.values()].sort((a, b) => b.own - a.own || (a.name < b.name ? -1 : 1)).slice(0, listed)
    at = last
  }
}

/** Bytes of all blobs; each counted once. */
export async function storedBytes(sql: Sql, atOnce = looked): Promise<number> {
  let bytes = 0
  for (let at = ''; ; await turn()) {
    const [row] = await sql.all<{ bytes: number | null; last: string | null }>(
      `SELECT sum(size) AS bytes, max(digest) AS last FROM (SELECT digest, size FROM blobs WHERE digest > ? ORDER BY digest LIMIT ?)`,
      [at, atOnce],
    )
    if (!row || row.last === null) return bytes
    bytes += row.bytes ?? 0
    at = row.last
  }
}

/** Lets requests have their turn between two statements. */
export const turn = () => new Promise((resolve) => setTimeout(resolve, 0))
