import { isMetadataError } from './errors.ts'
import type { MetadataStore, Sql } from './sql.ts'

/** A run whose process has not been heard of for this long may be taken over. Two at once are safe, and only wasteful. */
const staleMs = 5_000
const kept = 100

const counted = [
  'uploads',
  'manifests',
  'links',
  'blobs',
  'bytes',
  'orphans',
  'files',
  'reaped',
  'shared',
  'failures',
  'batches',
] as const

/**
 * What a run did: rows that went (`bytes` are those of the blobs), files that went (`files`, `reaped` bytes that are free now, `shared` bytes
 * that a snapshot's names keep), what could not be taken (`failures`), and its transactions. In a dry run: what it would do.
 */
export type GcCounts = Partial<Record<(typeof counted)[number], number>> & { heldUs?: number }

export type GcRun = Record<(typeof counted)[number], number> & {
  id: string
  kind: 'collect' | 'reconcile'
  askedAt: number
  dryRun: number
  skipWindow: number
  full: number
  repoId: number | null
  state: 'asked' | 'running' | 'done'
  startedAt: number | null
  completedAt: number | null
  phase: string
  phaseAt: number | null
  /** of the phase, in millionths */
  progress: number
  heldUs: number
  heldMaxUs: number
  error: string
}

const columns = `id, kind, asked_at AS askedAt, dry_run AS dryRun, skip_window AS skipWindow, full, repo_id AS repoId, state,
  started_at AS startedAt, completed_at AS completedAt, phase, phase_at AS phaseAt, progress, held_us AS heldUs, held_max_us AS heldMaxUs, error,
  ${counted.join(', ')}`

export interface GcAsked {
  kind?: GcRun['kind']
  dryRun: boolean
  /** skip the undelete window and the quarantine; what is pushed just now stays protected all the same */
  now: boolean
  /** look at everything, not only at what the queue names */
  full?: boolean
  repoId?: number
}

/** Adds a run. Shape: whether it was added: not while another one is asked for or under way, whatever process has it. */
export async function addRun(store: MetadataStore, run: GcAsked & { id: string; by: string; at: number }): Promise<boolean> {
  try {
    await store.write((sql) =>
      sql.run(`INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window, full, repo_id) VALUES (?,?,?,?,?,?,?,?)`, [
        run.id,
        run.kind ?? 'collect',
        run.at,
        run.by,
        run.dryRun,
        run.now,
        run.full ?? false,
        run.repoId ?? null,
      ]),
    )
    return true
  } catch (error) {
    if (isMetadataError(error) && error.code === 'DB_CONSTRAINT') return false
    throw error
  }
}

/** The run under way or asked for, else the newest; or the one of an id. */
export async function findRun(sql: Sql, id?: string): Promise<GcRun | undefined> {
  const [row] = await sql.all<GcRun>(
    `SELECT ${columns} FROM gc_runs WHERE ? IS NULL OR id = ? ORDER BY state = 'done', asked_at DESC, id LIMIT 1`,
    [id ?? null, id ?? null],
  )
  return row
}

/** When the newest collection of everything was asked for (ms): dry runs, those of one repository, and the sweep alone do not count. */
export async function lastCollectionAt(sql: Sql): Promise<number | undefined> {
  const [row] = await sql.all<{ at: number }>(
    `SELECT asked_at AS at FROM gc_runs WHERE kind = 'collect' AND dry_run = 0 AND repo_id IS NULL ORDER BY asked_at DESC LIMIT 1`,
  )
  return row?.at
}

/** A run that waits for somebody: asked for, or left by a process that ended. */
export async function findWaitingRun(sql: Sql, now: number): Promise<string | undefined> {
  const [row] = await sql.all<{ id: string }>(
    `SELECT id FROM gc_runs WHERE state <> 'done' AND (state = 'asked' OR abs(? - beat_at) > ${staleMs}) ORDER BY id LIMIT 1`,
    [now],
  )
  return row?.id
}

/** Takes a run that waits; a dry run counts anew. Shape: whether it is this holder's now. */
export async function takeRun(sql: Sql, id: string, holder: string, now: number): Promise<boolean> {
  const taken = await sql.run(
    `UPDATE gc_runs SET state = 'running', holder = ?, started_at = coalesce(started_at, ?), beat_at = ?,
       ${counted.map((name) => `${name} = iif(dry_run, 0, ${name})`).join(', ')}
     WHERE id = ? AND (state = 'asked' OR (state = 'running' AND abs(? - beat_at) > ${staleMs}))`,
    [holder, now, now, id, now],
  )
  return taken > 0
}

/** Adds what was done, and says that the run goes on. Shape: false when another process has it now. */
export async function noteRun(
  sql: Sql,
  at: { run: { id: string }; holder: string; phase: string; phaseAt: number; progress: number },
  now: number,
  more: GcCounts,
): Promise<boolean> {
  const noted = await sql.run(
    `UPDATE gc_runs SET ${counted.map((name) => `${name} = ${name} + ?`).join(', ')}, held_us = held_us + ?, held_max_us = max(held_max_us, ?),
       phase = ?, phase_at = ?, progress = ?, beat_at = ? WHERE id = ? AND holder = ? AND state = 'running'`,
    [
      ...counted.map((name) => more[name] ?? 0),
      more.heldUs ?? 0,
      more.heldUs ?? 0,
      at.phase,
      at.phaseAt,
      Math.round(at.progress * 1_000_000),
      now,
      at.run.id,
      at.holder,
    ],
  )
  return noted > 0
}

/** Gives a run back, for another process to go on with. Shape: false when another has it already. */
export async function giveBackRun(sql: Sql, id: string, holder: string): Promise<boolean> {
  return (await sql.run(`UPDATE gc_runs SET state = 'asked' WHERE id = ? AND holder = ? AND state = 'running'`, [id, holder])) > 0
}

/** Ends a run, and forgets all but the newest. Shape: the run as it ended; undefined when another process has it. */
export async function endRun(sql: Sql, id: string, holder: string, now: number, error: string): Promise<GcRun | undefined> {
  const [run] = await sql.all<GcRun>(
    `UPDATE gc_runs SET state = 'done', completed_at = ?, error = ?, phase = '', progress = 0
     WHERE id = ? AND holder = ? AND state = 'running' RETURNING ${columns}`,
    [now, error, id, holder],
  )
  await sql.run(
    `DELETE FROM gc_runs WHERE state = 'done' AND id NOT IN (SELECT id FROM gc_runs ORDER BY asked_at DESC, id LIMIT ${kept})`,
  )
  return run
}

export interface GcState {
  pausedBy: string | null
  pausedAt: number | null
  fullAt: number | null
  /** the rule for untagged manifests that the last full check went by */
  rule: string
}

export async function gcState(sql: Sql): Promise<GcState> {
  const [row] = await sql.all<GcState>(
    `SELECT paused_by AS pausedBy, paused_at AS pausedAt, full_at AS fullAt, rule FROM gc_state WHERE id = 1`,
  )
  return row ?? { pausedBy: null, pausedAt: null, fullAt: null, rule: '' }
}

/** Whether nothing may be removed now. */
export async function isPaused(sql: Sql): Promise<boolean> {
  return (await gcState(sql)).pausedBy !== null
}

/** Pauses (by whom) or resumes. Shape: whether that changed anything. */
export async function setPaused(sql: Sql, by: string | null, now: number): Promise<boolean> {
  const changed = await sql.run(
    `UPDATE gc_state SET paused_by = ?, paused_at = ? WHERE id = 1 AND (paused_by IS NULL) <> (? IS NULL)`,
    [by, by === null ? null : now, by],
  )
  return changed > 0
}

/** Whether manifests that may be untagged are queued from now on. */
export async function setWatch(sql: Sql, on: boolean): Promise<void> {
  await sql.run(`UPDATE gc_state SET watch_untagged = ? WHERE id = 1 AND watch_untagged <> ?`, [on, on])
}

/** A full check has ended. */
export async function noteFull(sql: Sql, now: number, rule: string): Promise<void> {
  await sql.run(`UPDATE gc_state SET full_at = ?, rule = ? WHERE id = 1`, [now, rule])
}
