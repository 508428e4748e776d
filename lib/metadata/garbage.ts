import type { Digest } from '../oci/digest.ts'
import type { Sql } from './sql.ts'
import { givenUp } from './undelete.ts'

/**
 * Up to and with these epochs things go: `cold` for what nobody wanted lately, `deleted` for what was deleted before the undelete window,
 * `untagged` for manifests without a tag where a rule collects them.
 */
export interface Horizon {
  cold: number
  deleted: number
  untagged: number
}

/** A manifest or link of a repository; a blob has repository 0. `queued` is the epoch of the queue's entry that named it. */
export interface Candidate {
  repoId: number
  digest: Digest
  queued?: number
}

/** Whether something is garbage and why; if not, from which epoch on it may be, where waiting is all that it takes. */
export interface Verdict {
  garbage?: string
  later?: number
}

/**
 * Judgements read; whoever deletes judges again in the transaction that does. `foreseen` is the dry run whose findings count as gone.
 * A manifest that is deleted but may come back protects like any other: its references are rows until it goes.
 */
const live = (manifest: string) =>
  `NOT EXISTS (SELECT 1 FROM gc_findings g WHERE g.run_id = ? AND g.kind = 'manifest' AND g.repo_id = ${manifest}.repo_id AND g.digest = ${manifest}.digest)`

/** T7b: a link goes when no manifest of its repository names it and nobody wanted it lately. A hidden one has its window instead of a lease. */
export async function judgeLink(
  sql: Sql,
  { repoId, digest }: Candidate,
  { cold, deleted }: Horizon,
  foreseen: string,
): Promise<Verdict> {
  const [link] = await sql.all<{ epoch: number; hidden: number | null; needed: number }>(
    `SELECT l.epoch, l.hidden_epoch AS hidden, EXISTS (
       SELECT 1 FROM refs f JOIN manifests m ON m.id = f.manifest_id
       WHERE f.digest = l.digest AND m.repo_id = l.repo_id AND ${live('m')}) AS needed
     FROM repo_blobs l WHERE l.repo_id = ? AND l.digest = ?`,
    [foreseen, repoId, digest],
  )
  if (link?.needed !== 0) return {}
  if (link.hidden !== null) return link.hidden <= deleted ? { garbage: 'deleted' } : {}
  return link.epoch <= cold ? { garbage: 'no manifest needs it' } : { later: link.epoch }
}

/** T7c: a blob goes when no repository has it. Shape: the verdict, with what it is. */
export async function judgeBlob(
  sql: Sql,
  { digest }: Candidate,
  { cold }: Horizon,
  foreseen: string,
): Promise<Verdict & { inc?: string; size?: number }> {
  const [blob] = await sql.all<{ inc: string; size: number; epoch: number; linked: number }>(
    `SELECT b.inc, b.size, b.epoch, EXISTS (
       SELECT 1 FROM repo_blobs l WHERE l.digest = b.digest AND NOT EXISTS (
         SELECT 1 FROM gc_findings g WHERE g.run_id = ? AND g.kind = 'link' AND g.repo_id = l.repo_id AND g.digest = l.digest)) AS linked
     FROM blobs b WHERE b.digest = ?`,
    [foreseen, digest],
  )
  if (blob?.linked !== 0) return {}
  const { inc, size } = blob
  return blob.epoch <= cold ? { garbage: 'no repository has it', inc, size } : { later: blob.epoch }
}

/**
 * T7a for manifests without a tag: one goes when nothing that protects it is tagged, deleted but recoverable, or wanted lately. What
 * protects a manifest are the indexes that name it and its subject, and what protects those: looked at one step only, two that protect each
 * other would never go, and the signature of a signature would go too soon.
 */
export async function judgeUntagged(
  sql: Sql,
  { repoId, digest }: Candidate,
  { untagged }: Horizon,
  foreseen: string,
): Promise<Verdict> {
  const [row] = await sql.all<{ n: number; kept: number; newest: number }>(
    `WITH RECURSIVE above(id, digest, subject) AS (
       SELECT m.id, m.digest, m.subject FROM manifests m WHERE m.repo_id = ?1 AND m.digest = ?2
       UNION SELECT p.id, p.digest, p.subject FROM above a JOIN manifests p ON p.repo_id = ?1 AND p.digest = a.subject
         WHERE ${live('p').replace('?', '?3')}
       UNION SELECT p.id, p.digest, p.subject FROM above a JOIN refs f ON f.digest = a.digest AND f.kind = 'child'
         JOIN manifests p ON p.id = f.manifest_id AND p.repo_id = ?1 WHERE ${live('p').replace('?', '?3')})
     SELECT count(*) AS n, coalesce(max(m.epoch), 0) AS newest,
       coalesce(max(m.deleted_epoch IS NOT NULL OR EXISTS (SELECT 1 FROM tags t WHERE t.repo_id = ?1 AND t.manifest_id = m.id)), 0) AS kept
     FROM above a JOIN manifests m ON m.id = a.id`,
    [repoId, digest, foreseen],
  )
  if (!row || row.n === 0 || row.kept !== 0) return {}
  return row.newest <= untagged ? { garbage: 'untagged' } : { later: row.newest }
}

/** T7a: a manifest that was deleted before the window, or whose repository was. */
export async function judgeDeleted(sql: Sql, { repoId, digest }: Candidate, { deleted }: Horizon): Promise<Verdict> {
  const [row] = await sql.all<{ own: number | null; repository: number | null }>(
    `SELECT m.deleted_epoch AS own, r.deleted_epoch AS repository FROM manifests m JOIN repositories r ON r.id = m.repo_id
     WHERE m.repo_id = ? AND m.digest = ?`,
    [repoId, digest],
  )
  if (!row) return {}
  if (row.own !== null && row.own <= deleted) return { garbage: 'deleted' }
  return row.repository !== null && row.repository <= deleted ? { garbage: 'its repository was deleted' } : {}
}

/** Drops a manifest with its references and, where no other repository has it, its body. What it needed is in the queue then. */
export async function dropManifest(sql: Sql, { repoId, digest }: Candidate): Promise<void> {
  await sql.run(`DELETE FROM manifests WHERE repo_id = ? AND digest = ?`, [repoId, digest])
  await sql.run(`DELETE FROM manifest_bodies WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM manifests WHERE digest = ?)`, [
    digest,
    digest,
  ])
}

export async function dropLink(sql: Sql, { repoId, digest }: Candidate): Promise<void> {
  await sql.run(`DELETE FROM repo_blobs WHERE repo_id = ? AND digest = ?`, [repoId, digest])
}

/** Drops a blob's row; its incarnation is trash. */
export async function dropBlob(sql: Sql, digest: Digest, inc: string): Promise<void> {
  await sql.run(`DELETE FROM blobs WHERE digest = ? AND inc = ?`, [digest, inc])
  await sql.run(`INSERT INTO trash(inc, digest, epoch) VALUES (?, ?, (SELECT epoch FROM instance))`, [inc, digest])
}

/**
 * Ends the window in which a repository that was deleted in epoch `deleted` or before can come back: what is taken from it afterwards nobody
 * finds again. Shape: whether it is garbage; not, where it came back meanwhile.
 */
export async function giveUpRepository(sql: Sql, id: number, { deleted }: Horizon): Promise<boolean> {
  return (
    (await sql.run(`UPDATE repositories SET deleted_epoch = ${givenUp} WHERE id = ? AND deleted_epoch <= ?`, [id, deleted])) > 0
  )
}

/** Drops repositories that were deleted before the window and hold nothing any more. Shape: how many. */
export async function dropEmptyRepositories(sql: Sql, { deleted }: Horizon): Promise<number> {
  return await sql.run(
    `DELETE FROM repositories WHERE id IN (
       SELECT r.id FROM repositories r WHERE r.deleted_epoch <= ? AND NOT EXISTS (SELECT 1 FROM manifests WHERE repo_id = r.id)
       AND NOT EXISTS (SELECT 1 FROM repo_blobs WHERE repo_id = r.id) AND NOT EXISTS (SELECT 1 FROM uploads WHERE repo_id = r.id)
       AND NOT EXISTS (SELECT 1 FROM tags WHERE repo_id = r.id) ORDER BY r.id LIMIT 100)`,
    [deleted],
  )
}

/** A name that uploads were begun under, none of which ended: nothing was ever to be seen there. Whoever begins one takes it again. */
const neverUsed = `r.visible = 0 AND r.deleted_epoch IS NULL AND r.created_at <= ? AND NOT EXISTS (SELECT 1 FROM uploads WHERE repo_id = r.id)
  AND NOT EXISTS (SELECT 1 FROM repo_blobs WHERE repo_id = r.id) AND NOT EXISTS (SELECT 1 FROM manifests WHERE repo_id = r.id)
  AND NOT EXISTS (SELECT 1 FROM tags WHERE repo_id = r.id)`

/** Repositories that were made before `before` (ms since 1970) and never used, for the full check: it looks at every one, some at a time. */
export async function* neverUsedRepositories(sql: Sql, before: number): AsyncIterable<number[]> {
  for (let at = 0; ; ) {
    const rows = await sql.all<{ id: number; hit: number }>(
      `SELECT r.id, (${neverUsed}) AS hit FROM (SELECT * FROM repositories WHERE id > ? ORDER BY id LIMIT 1000) r ORDER BY r.id`,
      [before, at],
    )
    const last = rows.at(-1)
    if (!last) return
    yield rows.filter(({ hit }) => hit !== 0).map(({ id }) => id)
    at = last.id
  }
}

/** Drops those of `ids` that are not used now either. */
export async function dropNeverUsed(sql: Sql, ids: readonly number[], before: number): Promise<void> {
  await sql.run(`DELETE FROM repositories AS r WHERE r.id IN (SELECT value FROM json_each(?)) AND ${neverUsed}`, [
    JSON.stringify(ids),
    before,
  ])
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
    `SELECT inc AS incarnation, digest FROM trash
     WHERE inc > ? AND (digest IS NULL OR epoch <= (SELECT epoch FROM instance) - ?) AND NOT ${pinned} ORDER BY inc LIMIT 500`,
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
