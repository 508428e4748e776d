import { isMetadataError } from './errors.ts'
import type { MetadataStore, Sql } from './sql.ts'

/** A run whose process has not been heard of for this long may be taken over. Two at once are safe, and only wasteful. */
const staleMs = 5_000
const kept = 100

export interface GcRun {
  id: string
  kind: 'collect' | 'reconcile'
  askedAt: number
  dryRun: number
  skipWindow: number
  state: 'asked' | 'running' | 'done'
  startedAt: number | null
  completedAt: number | null
  uploads: number
  manifests: number
  links: number
  blobs: number
  bytes: number
  orphans: number
  error: string
}

/** What a run has done since it last said so. */
export type GcCounts = Partial<Record<'uploads' | 'manifests' | 'links' | 'blobs' | 'bytes' | 'orphans', number>>

const columns = `id, kind, asked_at AS askedAt, dry_run AS dryRun, skip_window AS skipWindow, state, started_at AS startedAt, completed_at AS completedAt,
  uploads, manifests, links, blobs, bytes, orphans, error`

export interface GcAsked {
  kind?: GcRun['kind']
  dryRun: boolean
  /** skip the undelete window and the quarantine; what is pushed just now stays protected all the same */
  now: boolean
}

/** Adds a run. Shape: whether it was added: not while another one is asked for or under way, whatever process has it. */
export async function addRun(store: MetadataStore, run: GcAsked & { id: string; by: string; at: number }): Promise<boolean> {
  try {
    await store.write((sql) =>
      sql.run(`INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window) VALUES (?,?,?,?,?,?)`, [
        run.id,
        run.kind ?? 'collect',
        run.at,
        run.by,
        run.dryRun,
        run.now,
      ]),
    )
    return true
  } catch (error) {
    if (isMetadataError(error) && error.code === 'DB_CONSTRAINT') return false
    throw error
  }
}

/** The newest run, or the one of an id. */
export async function findRun(sql: Sql, id?: string): Promise<GcRun | undefined> {
  const [row] = await sql.all<GcRun>(
    `SELECT ${columns} FROM gc_runs WHERE ? IS NULL OR id = ? ORDER BY state = 'done', asked_at DESC, id LIMIT 1`,
    [id ?? null, id ?? null],
  )
  return row
}

/** A run that waits for somebody: asked for, or left by a process that ended. */
export async function findWaitingRun(sql: Sql, now: number): Promise<string | undefined> {
  const [row] = await sql.all<{ id: string }>(
    `SELECT id FROM gc_runs WHERE state <> 'done' AND (state = 'asked' OR abs(? - beat_at) > ${staleMs}) LIMIT 1`,
    [now],
  )
  return row?.id
}

/** Takes a run that waits. Shape: whether it is this holder's now. */
export async function takeRun(sql: Sql, id: string, holder: string, now: number): Promise<boolean> {
  const taken = await sql.run(
    `UPDATE gc_runs SET state = 'running', holder = ?, started_at = coalesce(started_at, ?), beat_at = ?
     WHERE id = ? AND (state = 'asked' OR (state = 'running' AND abs(? - beat_at) > ${staleMs}))`,
    [holder, now, now, id, now],
  )
  return taken > 0
}

/** Adds what was done, and says that the run goes on. Shape: false when another process has it now. */
export async function noteRun(sql: Sql, id: string, holder: string, now: number, more: GcCounts): Promise<boolean> {
  const noted = await sql.run(
    `UPDATE gc_runs SET uploads = uploads + ?, manifests = manifests + ?, links = links + ?, blobs = blobs + ?, bytes = bytes + ?,
       orphans = orphans + ?, beat_at = ? WHERE id = ? AND holder = ? AND state = 'running'`,
    [
      more.uploads ?? 0,
      more.manifests ?? 0,
      more.links ?? 0,
      more.blobs ?? 0,
      more.bytes ?? 0,
      more.orphans ?? 0,
      now,
      id,
      holder,
    ],
  )
  return noted > 0
}

/** Ends a run, and forgets all but the newest. Shape: the run as it ended; undefined when another process has it. */
export async function endRun(sql: Sql, id: string, holder: string, now: number, error: string): Promise<GcRun | undefined> {
  const [run] = await sql.all<GcRun>(
    `UPDATE gc_runs SET state = 'done', completed_at = ?, error = ? WHERE id = ? AND holder = ? AND state = 'running' RETURNING ${columns}`,
    [now, error, id, holder],
  )
  await sql.run(
    `DELETE FROM gc_runs WHERE state = 'done' AND id NOT IN (SELECT id FROM gc_runs ORDER BY asked_at DESC, id LIMIT ${kept})`,
  )
  return run
}
