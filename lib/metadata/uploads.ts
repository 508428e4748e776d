import type { Segment } from '../blobs/blob-store.ts'
import type { Algorithm } from '../oci/digest.ts'
import type { RepositoryName, UploadId } from '../oci/names.ts'
import type { RepositoryId } from './repositories.ts'
import type { Sql } from './sql.ts'

/** A finisher that has not been heard of for this long lost its claim; the upload is open again. */
const finisherStaleMs = 60_000

/** As far in the future counts as old too: whoever touched it had a clock that was set back since. Takes the time of now, in ms. */
const stale = `abs(touched_at - ?) >= ${finisherStaleMs}`

export interface Upload {
  inc: UploadId
  repositoryId: RepositoryId
  /** bytes of the segments that are committed: the offset */
  size: number
  segments: number
  algorithm: Algorithm | null
  /** `finishing` while one request joins segments; a stale one counts as open */
  state: 'open' | 'finishing'
}

/** T1: the row that must be durable before the first file of the upload exists. */
export async function insertUpload(
  sql: Sql,
  upload: { inc: UploadId; repositoryId: RepositoryId; principal: string; algorithm?: Algorithm; now: number },
): Promise<void> {
  await sql.run(
    `INSERT INTO uploads(inc, repo_id, principal, algorithm, epoch, touched_at) VALUES (?, ?, ?, ?, (SELECT epoch FROM instance), ?)`,
    [upload.inc, upload.repositoryId, upload.principal, upload.algorithm ?? null, upload.now],
  )
}

/** How many uploads a principal has open. */
export async function countUploads(sql: Sql, principal: string): Promise<number> {
  const rows = await sql.all<{ n: number }>(`SELECT count(*) AS n FROM uploads WHERE principal = ?`, [principal])
  return (rows[0] as { n: number }).n
}

/** The upload, if it is this principal's and in this repository; undefined otherwise, whatever else there is. */
export async function findUpload(
  sql: Sql,
  repository: RepositoryName,
  inc: UploadId,
  principal: string,
  now: number,
): Promise<Upload | undefined> {
  const rows = await sql.all<Upload>(
    `SELECT u.inc, u.repo_id AS repositoryId, u.size, u.segments, u.algorithm,
       CASE WHEN u.state = 'finishing' AND NOT ${stale} THEN 'finishing' ELSE 'open' END AS state
     FROM uploads u JOIN repositories r ON r.id = u.repo_id
     WHERE u.inc = ? AND r.name = ? AND r.deleted_epoch IS NULL AND u.principal = ?`,
    [now, inc, repository, principal],
  )
  return rows[0]
}

export async function listSegments(sql: Sql, inc: UploadId): Promise<Segment[]> {
  return await sql.all<Segment>(`SELECT part, size, sha256 FROM upload_segments WHERE inc = ? ORDER BY seq`, [inc])
}

/**
 * T2: a durable segment becomes part of its upload; the offset moves by compare-and-set.
 * Shape: false when the upload is gone, finishing, or not at the offset the segment was written for.
 */
export async function appendSegment(
  sql: Sql,
  upload: Upload,
  segment: Segment,
  principal: string,
  now: number,
): Promise<boolean> {
  const moved = await sql.run(
    `UPDATE uploads SET size = size + ?, segments = segments + 1, state = 'open', owner = NULL,
       epoch = (SELECT epoch FROM instance), touched_at = ?
     WHERE inc = ? AND repo_id = ? AND principal = ? AND size = ? AND segments = ? AND (state = 'open' OR ${stale})`,
    [segment.size, now, upload.inc, upload.repositoryId, principal, upload.size, upload.segments, now],
  )
  if (moved === 0) return false
  await sql.run(`INSERT INTO upload_segments(inc, seq, part, size, sha256) VALUES (?, ?, ?, ?, ?)`, [
    upload.inc,
    upload.segments,
    segment.part,
    segment.size,
    segment.sha256,
  ])
  return true
}

/** Keeps a session alive while its body or its joining takes long. */
export async function touchUpload(sql: Sql, inc: UploadId, owner: string | null, now: number): Promise<boolean> {
  return (
    (await sql.run(`UPDATE uploads SET epoch = (SELECT epoch FROM instance), touched_at = ? WHERE inc = ? AND owner IS ?`, [
      now,
      inc,
      owner,
    ])) > 0
  )
}

/** Claims an upload for joining: `open → finishing`. Shape: false when somebody else finishes it or it changed since it was read. */
export async function claimUpload(sql: Sql, upload: Upload, principal: string, owner: string, now: number): Promise<boolean> {
  const claimed = await sql.run(
    `UPDATE uploads SET state = 'finishing', owner = ?, touched_at = ?, epoch = (SELECT epoch FROM instance)
     WHERE inc = ? AND repo_id = ? AND principal = ? AND size = ? AND segments = ? AND (state = 'open' OR ${stale})`,
    [owner, now, upload.inc, upload.repositoryId, principal, upload.size, upload.segments, now],
  )
  return claimed > 0
}

/** Gives a claim back; the upload is open again, where it was. */
export async function releaseUpload(sql: Sql, inc: UploadId, owner: string, now: number): Promise<void> {
  await sql.run(`UPDATE uploads SET state = 'open', owner = NULL, touched_at = ? WHERE inc = ? AND owner = ?`, [now, inc, owner])
}

/**
 * T3, the fence: takes the upload's row away, if it is still as the finisher saw it.
 * Shape: false when it is gone or changed; then nothing of this transaction may stand.
 */
export async function endUpload(sql: Sql, upload: Upload, principal: string, owner: string | null): Promise<boolean> {
  const gone = await sql.run(
    `DELETE FROM uploads WHERE inc = ? AND repo_id = ? AND principal = ? AND size = ? AND segments = ? AND (owner IS ? OR owner IS NULL)`,
    [upload.inc, upload.repositoryId, principal, upload.size, upload.segments, owner],
  )
  return gone > 0
}

/** T9 for one: the upload is over, its files may go. Shape: whether it was there. */
export async function discardUpload(sql: Sql, inc: string): Promise<boolean> {
  if ((await sql.run(`DELETE FROM uploads WHERE inc = ?`, [inc])) === 0) return false
  await sql.run(`INSERT INTO trash(inc, digest, epoch) VALUES (?, NULL, (SELECT epoch FROM instance))`, [inc])
  return true
}

/**
 * What is idle: untouched for `idleMs`, and of a cold epoch. One that was touched that far in the future was so before the clock was set
 * back: the epoch alone says how old it is.
 */
export interface Idle {
  now: number
  idleMs: number
  coldAfter: number
  limit: number
}

/** T9's look: idle uploads behind `after`, oldest first. */
export async function idleUploads(
  sql: Sql,
  { now, idleMs, coldAfter, limit }: Idle,
  after = { touchedAt: Number.MIN_SAFE_INTEGER, inc: '' },
): Promise<{ touchedAt: number; inc: string }[]> {
  return await sql.all<{ touchedAt: number; inc: UploadId }>(
    `SELECT touched_at AS touchedAt, inc FROM uploads
     WHERE (touched_at <= ? OR touched_at >= ?) AND epoch <= (SELECT epoch FROM instance) - ? AND (touched_at, inc) > (?, ?)
     ORDER BY touched_at, inc LIMIT ?`,
    [now - idleMs, now + idleMs, coldAfter, after.touchedAt, after.inc, limit],
  )
}

/** T9: ends idle uploads, oldest first, at most `limit`; their files are trash. Shape: how many. */
export async function expireIdleUploads(sql: Sql, idle: Idle): Promise<number> {
  const uploads = await idleUploads(sql, idle)
  for (const { inc } of uploads) await discardUpload(sql, inc)
  return uploads.length
}
