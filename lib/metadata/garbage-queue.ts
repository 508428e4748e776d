import type { Candidate } from './garbage.ts'
import type { Sql } from './sql.ts'

export type GarbageKind = 'manifest' | 'link' | 'blob'

/** What is read at once: each look holds the reader for milliseconds. */
const looked = 200
const windowed = 2_000

/** Candidates, some at a time, and how far through (0 to 1) they are. */
export type Source = AsyncIterable<{ items: Candidate[]; progress: number }>

/** Entries of the queue whose epoch is `until` or before, oldest first. What is put in meanwhile behind the cursor waits for the next run. */
export async function* queued(sql: Sql, kind: GarbageKind, until: number, repoId: number | null): Source {
  const [count] = await sql.all<{ n: number }>(
    `SELECT count(*) AS n FROM (SELECT 1 FROM gc_queue WHERE kind = ? AND epoch <= ? LIMIT 1000000)`,
    [kind, until],
  )
  let seen = 0
  for (let at = { queued: -1, repoId: 0, digest: '' }; ; ) {
    const rows = await sql.all<Required<Candidate>>(
      `SELECT epoch AS queued, repo_id AS repoId, digest FROM gc_queue
       WHERE kind = ? AND epoch <= ? AND (epoch, repo_id, digest) > (?, ?, ?) ORDER BY epoch, repo_id, digest LIMIT ${looked}`,
      [kind, until, at.queued, at.repoId, at.digest],
    )
    seen += rows.length
    const last = rows.at(-1)
    if (!last) return
    const items = repoId === null || kind === 'blob' ? rows : rows.filter((row) => row.repoId === repoId)
    yield { items, progress: Math.min(1, seen / Math.max(1, count?.n ?? 1)) }
    at = last
  }
}

/** An entry was looked at: it goes, or waits for the epoch `later`. */
export async function settle(sql: Sql, kind: GarbageKind, { repoId, digest, queued }: Candidate, later?: number): Promise<void> {
  if (queued !== undefined)
    await sql.run(`DELETE FROM gc_queue WHERE kind = ? AND epoch = ? AND repo_id = ? AND digest = ?`, [
      kind,
      queued,
      repoId,
      digest,
    ])
  if (later !== undefined)
    await sql.run(`INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, [
      kind,
      later,
      repoId,
      digest,
    ])
}

/** Manifests that were deleted in epoch `deleted` or before. */
export async function* deletedManifests(sql: Sql, deleted: number, repoId: number | null): Source {
  for (let at = { epoch: -1, id: 0 }; ; ) {
    const rows = await sql.all<Candidate & { epoch: number; id: number }>(
      `SELECT repo_id AS repoId, digest, deleted_epoch AS epoch, id FROM manifests
       WHERE deleted_epoch <= ? AND (deleted_epoch, id) > (?, ?) AND (? IS NULL OR repo_id = ?) ORDER BY deleted_epoch, id LIMIT ${looked}`,
      [deleted, at.epoch, at.id, repoId, repoId],
    )
    const last = rows.at(-1)
    if (!last) return
    yield { items: rows.map(({ repoId, digest }) => ({ repoId, digest })), progress: 0 }
    at = last
  }
}

/** Links that were hidden in epoch `deleted` or before. */
export async function* hiddenLinks(sql: Sql, deleted: number, repoId: number | null): Source {
  for (let at = { epoch: -1, repoId: 0, digest: '' }; ; ) {
    const rows = await sql.all<Candidate & { epoch: number }>(
      `SELECT repo_id AS repoId, digest, hidden_epoch AS epoch FROM repo_blobs
       WHERE hidden_epoch <= ? AND (hidden_epoch, repo_id, digest) > (?, ?, ?) AND (? IS NULL OR repo_id = ?)
       ORDER BY hidden_epoch, repo_id, digest LIMIT ${looked}`,
      [deleted, at.epoch, at.repoId, at.digest, repoId, repoId],
    )
    const last = rows.at(-1)
    if (!last) return
    yield { items: rows.map(({ repoId, digest }) => ({ repoId, digest })), progress: 0 }
    at = last
  }
}

/** Repositories that were deleted in epoch `deleted` or before, at most 1000. */
export async function deletedRepositories(sql: Sql, deleted: number): Promise<number[]> {
  const rows = await sql.all<{ id: number }>(`SELECT id FROM repositories WHERE deleted_epoch <= ? ORDER BY id LIMIT 1000`, [
    deleted,
  ])
  return rows.map(({ id }) => id)
}

/** The table of the full check, by kind, and which of its rows nothing needs: those still warm are put into the queue. */
const tables = {
  manifest: {
    from: 'manifests',
    where: `deleted_epoch IS NULL AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repo_id = w.repo_id AND t.manifest_id = w.id)`,
  },
  link: {
    from: 'repo_blobs',
    where: `NOT EXISTS (SELECT 1 FROM refs f JOIN manifests m ON m.id = f.manifest_id WHERE f.digest = w.digest AND m.repo_id = w.repo_id)`,
  },
} as const

/** The full check: every manifest, or every link, in windows; those that may be garbage. */
export async function* everyOf(sql: Sql, kind: keyof typeof tables, repoId: number | null): Source {
  const { from, where } = tables[kind]
  const [last] = await sql.all<{ id: number }>(`SELECT coalesce(max(id), 1) AS id FROM repositories`)
  for (let at: Candidate = { repoId: repoId ?? 0, digest: '' as Candidate['digest'] }; ; ) {
    const rows = await sql.all<Candidate & { hit: number }>(
      `SELECT w.repo_id AS repoId, w.digest, (${where}) AS hit FROM (
         SELECT * FROM ${from} WHERE (repo_id, digest) > (?, ?) AND repo_id <= ? ORDER BY repo_id, digest LIMIT ${windowed}) w
       ORDER BY w.repo_id, w.digest`,
      [at.repoId, at.digest, repoId ?? Number.MAX_SAFE_INTEGER],
    )
    const end = rows.at(-1)
    if (!end) return
    const items = rows.filter(({ hit }) => hit !== 0).map(({ repoId, digest }) => ({ repoId, digest }))
    yield { items, progress: Math.min(1, end.repoId / (last?.id ?? 1)) }
    at = end
  }
}

/** The same for blobs. Digests are spread evenly, so that one says how far through they are. */
export async function* everyBlob(sql: Sql): Source {
  for (let at = ''; ; ) {
    const rows = await sql.all<{ digest: Candidate['digest']; hit: number }>(
      `SELECT b.digest, NOT EXISTS (SELECT 1 FROM repo_blobs l WHERE l.digest = b.digest) AS hit
       FROM (SELECT * FROM blobs WHERE digest > ? ORDER BY digest LIMIT ${windowed}) b ORDER BY b.digest`,
      [at],
    )
    const end = rows.at(-1)
    if (!end) return
    const position = Number.parseInt(end.digest.slice(end.digest.indexOf(':') + 1).slice(0, 8), 16) / 0xffffffff
    yield { items: rows.filter(({ hit }) => hit !== 0).map(({ digest }) => ({ repoId: 0, digest })), progress: position }
    at = end.digest
  }
}

/** What waits for collection: entries of the queue by kind, incarnations in the trash, the oldest epoch in the queue, and the current one. */
export interface QueueState {
  manifests: number
  links: number
  blobs: number
  trash: number
  oldest: number | null
  epoch: number
  /** ms of the current epoch that have passed */
  elapsed: number
}

/** Entries of a kind that are counted, in a few milliseconds: enough to see that something waits. How long it waits tells whether that is bad. */
export const countedMost = 10_000

/** How much waits, each counted up to `countedMost`: whoever watches a collection asks often, and holds nobody up. */
export async function queueState(sql: Sql): Promise<QueueState> {
  const count = (kind: GarbageKind) => `(SELECT count(*) FROM (SELECT 1 FROM gc_queue WHERE kind = '${kind}' LIMIT ?1))`
  const oldest = (kind: GarbageKind) => `SELECT min(epoch) AS e FROM gc_queue WHERE kind = '${kind}' AND epoch > 0`
  const [row] = await sql.all<QueueState>(
    `SELECT ${count('manifest')} AS manifests, ${count('link')} AS links, ${count('blob')} AS blobs,
       (SELECT count(*) FROM (SELECT 1 FROM trash LIMIT ?1)) AS trash,
       (SELECT min(e) FROM (${oldest('manifest')} UNION ALL ${oldest('link')} UNION ALL ${oldest('blob')})) AS oldest,
       epoch, epoch_elapsed_ms AS elapsed FROM instance`,
    [countedMost],
  )
  return row ?? { manifests: 0, links: 0, blobs: 0, trash: 0, oldest: null, epoch: 0, elapsed: 0 }
}
