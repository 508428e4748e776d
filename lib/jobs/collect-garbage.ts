import { change } from '../journal/change.ts'
import { isMetadataError } from '../metadata/errors.ts'
import {
  batches,
  dropBlobs,
  dropLinks,
  dropManifests,
  foresee,
  type Horizon,
  type LinkKey,
  lookAtBlobs,
  lookAtLinks,
} from '../metadata/garbage.ts'
import type { Job, JobContext } from './job.ts'
import { reapNow } from './reap-trash.ts'
import { sweepOrphans } from './sweep-orphans.ts'

/** A run whose process has not been heard of for this long is over. */
const staleMs = 60_000
const pollMs = 1_000

export interface GcRun {
  id: string
  kind: 'collect' | 'reconcile'
  askedAt: number
  dryRun: number
  skipWindow: number
  state: 'asked' | 'running' | 'done'
  startedAt: number | null
  completedAt: number | null
  manifests: number
  links: number
  blobs: number
  bytes: number
  orphans: number
  error: string
}

const columns = `id, kind, asked_at AS askedAt, dry_run AS dryRun, skip_window AS skipWindow, state, started_at AS startedAt, completed_at AS completedAt,
  manifests, links, blobs, bytes, orphans, error`

export interface GcAsked {
  kind?: GcRun['kind']
  dryRun: boolean
  /** skip the undelete window and the quarantine; what is pushed just now stays protected all the same */
  now: boolean
}

/** Asks for a run. Shape: its id, or undefined while another one is asked for or under way: a row of its table says so, in any process. */
export async function askForCollection(
  ctx: Pick<JobContext, 'metadata' | 'now' | 'newId'>,
  by: string,
  { kind = 'collect', dryRun, now }: GcAsked,
): Promise<string | undefined> {
  const id = ctx.newId()
  await ctx.metadata.write((sql) =>
    sql.run(
      `UPDATE gc_runs SET state = 'done', completed_at = ?, error = 'its process ended' WHERE state = 'running' AND beat_at < ?`,
      [ctx.now(), ctx.now() - staleMs],
    ),
  )
  try {
    await ctx.metadata.write((sql) =>
      sql.run(`INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window) VALUES (?,?,?,?,?,?)`, [
        id,
        kind,
        ctx.now(),
        by,
        dryRun,
        now,
      ]),
    )
    return id
  } catch (error) {
    if (isMetadataError(error) && error.code === 'DB_CONSTRAINT') return undefined
    throw error
  }
}

/** The newest run, or the one of an id. */
export async function findRun(ctx: Pick<JobContext, 'metadata'>, id?: string): Promise<GcRun | undefined> {
  const [row] = await ctx.metadata.read.all<GcRun>(
    `SELECT ${columns} FROM gc_runs WHERE ? IS NULL OR id = ? ORDER BY asked_at DESC, id LIMIT 1`,
    [id ?? null, id ?? null],
  )
  return row
}

/**
 * T7 in small transactions beside pushes: every one asks again whether what it takes is garbage, so that no order of things can take what
 * somebody needs. What a push counts on (a blob it was told is there, an upload it finished) is protected by its epoch.
 * Shape: the run as it ended. `undefined`: it was not there to be taken.
 */
export async function collectGarbage(
  ctx: JobContext,
  id: string,
  options: { windowEpochs: number; actor: string },
  signal: AbortSignal,
): Promise<GcRun | undefined> {
  const taken = await ctx.metadata.write((sql) =>
    sql.run(`UPDATE gc_runs SET state = 'running', started_at = ?, beat_at = ? WHERE id = ? AND state = 'asked'`, [
      ctx.now(),
      ctx.now(),
      id,
    ]),
  )
  const run = await findRun(ctx, id)
  if (taken === 0 || !run) return undefined
  const actor = { principal: { subject: options.actor } }
  await change(ctx, actor, async (_sql, append) => {
    append({ type: 'gc_started', detail: { gc_id: id, dry_run: run.dryRun !== 0, now: run.skipWindow !== 0 } })
  })
  let error = ''
  try {
    const horizon = await horizonOf(ctx, run.skipWindow !== 0 ? -1 : options.windowEpochs)
    if (run.kind === 'reconcile')
      await sweepOrphans(ctx, { dryRun: run.dryRun !== 0 }, signal, (orphans) => note(ctx, id, { orphans }))
    else if (run.dryRun !== 0) await note(ctx, id, await foresee(ctx.metadata.read, horizon))
    else {
      await sweep(ctx, id, horizon, signal)
      if (run.skipWindow !== 0) await reapNow(ctx, signal)
    }
    if (signal.aborted) error = 'stopped; the next run goes on'
  } catch (failure) {
    error = (failure as Error).message
  }
  await change(ctx, actor, async (sql, append) => {
    await sql.run(`UPDATE gc_runs SET state = 'done', completed_at = ?, error = ? WHERE id = ?`, [ctx.now(), error, id])
    const [done] = await sql.all<GcRun>(`SELECT ${columns} FROM gc_runs WHERE id = ?`, [id])
    const { manifests = 0, links = 0, blobs = 0, bytes = 0, orphans = 0 } = done ?? {}
    append({
      type: 'gc_completed',
      detail: { gc_id: id, dry_run: run.dryRun !== 0, manifests, links, blobs, bytes, orphans, ...(error ? { error } : {}) },
    })
    await sql.run(
      `DELETE FROM gc_runs WHERE state = 'done' AND id NOT IN (SELECT id FROM gc_runs ORDER BY asked_at DESC LIMIT 100)`,
    )
  })
  return await findRun(ctx, id)
}

/** A row touched in epoch e is cold when the current one is e + 2 or more: its protection lasts one to two epochs. */
async function horizonOf(ctx: JobContext, windowEpochs: number): Promise<Horizon> {
  const [row] = await ctx.metadata.read.all<{ epoch: number }>(`SELECT epoch FROM instance`)
  const epoch = row?.epoch ?? 0
  return { cold: epoch - 2, deleted: epoch - windowEpochs - 1 }
}

async function sweep(ctx: JobContext, id: string, horizon: Horizon, signal: AbortSignal): Promise<void> {
  for (;;) {
    if (signal.aborted) return
    const manifests = await ctx.metadata.write((sql) => dropManifests(sql, horizon))
    if (manifests === 0) break
    await note(ctx, id, { manifests })
  }
  for (let at: LinkKey | undefined = { repoId: 0, digest: '' }; at; ) {
    const { found, next } = await lookAtLinks(ctx.metadata.read, at, horizon)
    for (const batch of batches(found)) {
      if (signal.aborted) return
      await note(ctx, id, { links: await ctx.metadata.write((sql) => dropLinks(sql, batch, horizon)) })
    }
    at = next
    await breathe()
  }
  for (let at: string | undefined = ''; at !== undefined; ) {
    const { found, next } = await lookAtBlobs(ctx.metadata.read, at, horizon)
    for (const batch of batches(found)) {
      if (signal.aborted) return
      await note(ctx, id, await ctx.metadata.write((sql) => dropBlobs(sql, batch, horizon)))
    }
    at = next
    await breathe()
  }
  // Repositories whose last link went just now.
  await ctx.metadata.write((sql) => dropManifests(sql, horizon))
}

/** Requests first: looking holds the event loop for milliseconds at a time. */
const breathe = () => new Promise((resolve) => setTimeout(resolve, 1))

async function note(
  ctx: JobContext,
  id: string,
  more: { manifests?: number; links?: number; blobs?: number; bytes?: number; orphans?: number },
): Promise<void> {
  await ctx.metadata.write((sql) =>
    sql.run(
      `UPDATE gc_runs SET manifests = manifests + ?, links = links + ?, blobs = blobs + ?, bytes = bytes + ?, orphans = orphans + ?, beat_at = ? WHERE id = ?`,
      [more.manifests ?? 0, more.links ?? 0, more.blobs ?? 0, more.bytes ?? 0, more.orphans ?? 0, ctx.now(), id],
    ),
  )
}

/** Runs what was asked for, in whichever process has jobs, and asks by itself once in `intervalMs` (0: never). */
export function collectGarbageJob(options: { windowEpochs: number; intervalMs: number }): Job {
  return {
    name: 'collect-garbage',
    everyMs: pollMs,
    async due(ctx) {
      const run = await findRun(ctx)
      return run?.state === 'asked' || (await isTime(ctx, run))
    },
    async run(ctx, signal) {
      const last = await findRun(ctx)
      if (await isTime(ctx, last)) await askForCollection(ctx, 'system:collect-garbage', { dryRun: false, now: false })
      const run = await findRun(ctx)
      const done =
        run?.state === 'asked'
          ? await collectGarbage(ctx, run.id, { windowEpochs: options.windowEpochs, actor: 'system:collect-garbage' }, signal)
          : undefined
      const { manifests = 0, links = 0, blobs = 0, bytes = 0 } = done ?? {}
      return { manifests, links, blobs, bytes }
    },
  }

  /** Whether the last run, or the first start where there was none, is long enough ago. */
  async function isTime(ctx: JobContext, run: GcRun | undefined): Promise<boolean> {
    if (options.intervalMs === 0 || run?.state === 'asked' || run?.state === 'running') return false
    const [instance] = await ctx.metadata.read.all<{ createdAt: number }>(`SELECT created_at AS createdAt FROM instance`)
    return ctx.now() - (run?.askedAt ?? instance?.createdAt ?? ctx.now()) >= options.intervalMs
  }
}
