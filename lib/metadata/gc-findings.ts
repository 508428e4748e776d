import type { Digest } from '../oci/digest.ts'
import type { Candidate } from './garbage.ts'
import type { GarbageKind, Source } from './garbage-queue.ts'
import type { Sql } from './sql.ts'

const looked = 200

/** One thing that a dry run would have taken. `size` is what its file gives back, `shared` what a snapshot's name of it keeps. */
export interface Finding extends Candidate {
  kind: GarbageKind
  why: string
  size: number
  shared: number
}

/** Adds findings of a run. Shape: how many are new, with their bytes. */
export async function addFindings(
  sql: Sql,
  run: string,
  findings: readonly Finding[],
): Promise<{ added: number; size: number; shared: number }> {
  const total = { added: 0, size: 0, shared: 0 }
  for (const { kind, repoId, digest, why, size, shared } of findings) {
    const added = await sql.run(
      `INSERT INTO gc_findings(run_id, kind, repo_id, digest, why, size, shared) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
      [run, kind, repoId, digest, why, size, shared],
    )
    if (added === 0) continue
    total.added++
    total.size += size
    total.shared += shared
  }
  return total
}

/** Forgets all findings, some at a time. Shape: how many went. */
export async function forgetFindings(sql: Sql): Promise<number> {
  return await sql.run(
    `DELETE FROM gc_findings WHERE (run_id, kind, repo_id, digest) IN (
       SELECT run_id, kind, repo_id, digest FROM gc_findings LIMIT ${looked})`,
  )
}

export interface FindingRow {
  kind: GarbageKind
  repository: string | null
  repoId: number
  digest: Digest
  why: string
  size: number
  shared: number
}

/** Findings of a run by kind, repository and digest, after the one given. Shape: at most `limit`. */
export async function listFindings(
  sql: Sql,
  run: string,
  after: { kind: string; repoId: number; digest: string },
  limit: number,
): Promise<FindingRow[]> {
  return await sql.all<FindingRow>(
    `SELECT g.kind, r.name AS repository, g.repo_id AS repoId, g.digest, g.why, g.size, g.shared
     FROM gc_findings g LEFT JOIN repositories r ON r.id = g.repo_id
     WHERE g.run_id = ? AND (g.kind, g.repo_id, g.digest) > (?, ?, ?) ORDER BY g.kind, g.repo_id, g.digest LIMIT ?`,
    [run, after.kind, after.repoId, after.digest, limit],
  )
}

/** What becomes a candidate when the run's findings of a kind go. */
const behind = {
  /** what the manifests need, as links */
  'links of manifests': {
    kind: 'manifest',
    of: `SELECT l.repo_id AS repoId, l.digest FROM manifests m JOIN refs f ON f.manifest_id = m.id
         JOIN repo_blobs l ON l.repo_id = m.repo_id AND l.digest = f.digest WHERE m.repo_id = ?1 AND m.digest = ?2`,
  },
  /** what the manifests protected */
  'manifests of manifests': {
    kind: 'manifest',
    of: `SELECT c.repo_id AS repoId, c.digest FROM manifests m JOIN refs f ON f.manifest_id = m.id AND f.kind = 'child'
         JOIN manifests c ON c.repo_id = m.repo_id AND c.digest = f.digest WHERE m.repo_id = ?1 AND m.digest = ?2
         UNION SELECT c.repo_id, c.digest FROM manifests c WHERE c.repo_id = ?1 AND c.subject = ?2`,
  },
  /** the blobs of the links */
  'blobs of links': { kind: 'link', of: `SELECT 0 AS repoId, digest FROM blobs WHERE ?1 = ?1 AND digest = ?2` },
} as const

/** Candidates that follow from what a dry run found: what triggers put into the queue when things really go. */
export async function* following(sql: Sql, run: string, what: keyof typeof behind): Source {
  const { kind, of } = behind[what]
  for (let at = { repoId: -1, digest: '' }; ; ) {
    const rows = await sql.all<{ repoId: number; digest: string }>(
      `SELECT repo_id AS repoId, digest FROM gc_findings WHERE run_id = ? AND kind = ? AND (repo_id, digest) > (?, ?)
       ORDER BY repo_id, digest LIMIT ${looked}`,
      [run, kind, at.repoId, at.digest],
    )
    const last = rows.at(-1)
    if (!last) return
    const items: Candidate[] = []
    for (const { repoId, digest } of rows) items.push(...(await sql.all<Candidate>(of, [repoId, digest])))
    yield { items, progress: 0 }
    at = last
  }
}
