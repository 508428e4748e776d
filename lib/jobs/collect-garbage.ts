import { change } from '../journal/change.ts'
import type { Horizon } from '../metadata/garbage.ts'
import {
  addRun,
  endRun,
  findRun,
  findWaitingRun,
  type GcAsked,
  type GcRun,
  gcState,
  giveBackRun,
  lastCollectionAt,
  noteFull,
  takeRun,
} from '../metadata/gc-runs.ts'
import { expire } from './expire-uploads.ts'
import { foresee } from './gc-foresee.ts'
import { breathe, type Collection, enterPhase, mayGoOn, note, Stopped } from './gc-pace.ts'
import { collectBlobs, collectLinks, collectManifests } from './gc-phases.ts'
import type { Job, JobContext } from './job.ts'
import { reap } from './reap-trash.ts'
import { sweepOrphans } from './sweep-orphans.ts'

const pollMs = 250
const beatMs = 1_000
/** Everything is looked at this often, whatever the queue says. */
const fullEveryMs = 7 * 24 * 3_600_000

/** Asks for a run. Shape: its id, or undefined while another one is asked for or under way: a row of its table says so, in any process. */
export async function askForCollection(
  ctx: Pick<JobContext, 'metadata' | 'now' | 'newId'>,
  by: string,
  asked: GcAsked,
): Promise<string | undefined> {
  const id = ctx.newId()
  return (await addRun(ctx.metadata, { ...asked, id, by, at: ctx.now() })) ? id : undefined
}

/**
 * T7 in small transactions beside pushes: every one asks again whether what it takes is garbage, so that no order of things can take what
 * somebody needs, however many processes collect at once. What a push counts on (a blob it was told is there, an upload it finished) is
 * protected by its epoch. A run that a process left behind is taken over and begun again: what it did is done.
 * `stopped`: whether a run that is told to stop ends, or waits for the next process with the job.
 * Shape: the run as it ended. `undefined`: it was not there to be taken, waits, or another process took it over.
 */
export async function collectGarbage(
  ctx: JobContext,
  id: string,
  actor: string,
  signal: AbortSignal,
  stopped: 'ends' | 'waits',
): Promise<GcRun | undefined> {
  const holder = ctx.newId()
  if (!(await ctx.metadata.write((sql) => takeRun(sql, id, holder, ctx.now())))) return undefined
  const run = (await findRun(ctx.metadata.read, id)) as GcRun
  const c: Collection = {
    ctx,
    run,
    holder,
    actor,
    signal,
    phase: '',
    phaseAt: ctx.now(),
    progress: 0,
    failures: 0,
    firstFailure: '',
    pace: 'beside',
  }
  const by = { principal: { subject: actor } }
  await change(ctx, by, async (_sql, append) => {
    append({ type: 'gc_started', detail: { gc_id: id, kind: run.kind, dry_run: run.dryRun !== 0, now: run.skipWindow !== 0 } })
  })
  const beat = setInterval(() => {
    note(c, {}).catch((error) => ctx.log({ level: 'warn', event: 'gc_heartbeat_failed', error: String(error) }))
  }, beatMs)
  let error = ''
  try {
    if (run.kind === 'reconcile') await sweep(c)
    else await collect(c)
  } catch (failure) {
    error = (failure as Error).message
    if (!(failure instanceof Stopped)) ctx.log({ level: 'error', event: 'gc_failed', error })
  } finally {
    clearInterval(beat)
  }
  if (error !== '' && signal.aborted && stopped === 'waits') {
    await ctx.metadata.write((sql) => giveBackRun(sql, id, holder))
    return undefined
  }
  if (error === '' && c.failures > 0) error = `${c.failures} could not be collected, the first: ${c.firstFailure}`
  ctx.count('gc_runs_total', { kind: run.dryRun !== 0 ? 'dry run' : run.kind, result: error === '' ? 'ok' : 'failed' })
  return await change(ctx, by, async (sql, append) => {
    const done = await endRun(sql, id, holder, ctx.now(), error)
    if (!done) return undefined
    const { uploads, manifests, links, blobs, bytes, files, reaped, orphans } = done
    const detail = { gc_id: id, dry_run: run.dryRun !== 0, uploads, manifests, links, blobs, bytes, files, reaped, orphans }
    append({ type: 'gc_completed', detail: error ? { ...detail, error } : detail })
    return done
  })
}

async function collect(c: Collection): Promise<void> {
  const { ctx, run } = c
  const horizon = await horizonOf(c)
  const rule = JSON.stringify(ctx.retention.untagged ?? null)
  const full = run.repoId === null && (run.full !== 0 || (await isFullTime(ctx, rule)))
  if (run.dryRun !== 0) {
    await foresee(c, horizon, full)
    if (full) await sweep(c)
    return
  }
  if (run.repoId === null) {
    await enterPhase(c, 'uploads')
    await note(c, { uploads: await expire(ctx, c.signal) })
  }
  await collectManifests(c, horizon, full)
  await collectLinks(c, horizon, full)
  await collectBlobs(c, horizon, full)
  await enterPhase(c, 'files')
  for await (const { files, bytes, shared, failed } of reap(
    ctx,
    run.skipWindow !== 0 ? 0 : ctx.retention.quarantineAfter,
    c.signal,
  )) {
    await note(c, { files, reaped: bytes, shared, failures: failed })
    await mayGoOn(c)
  }
  if (!full) return
  await sweep(c)
  await ctx.metadata.write((sql) => noteFull(sql, ctx.now(), rule))
}

/** T10. */
async function sweep(c: Collection): Promise<void> {
  await enterPhase(c, 'orphans')
  for await (const { looked, orphans, files, bytes, shared, failed } of sweepOrphans(c.ctx, { dryRun: c.run.dryRun !== 0 })) {
    if (orphans > 0) await note(c, { orphans, files, reaped: bytes, shared, failures: failed })
    await mayGoOn(c)
    await breathe(c, 5, looked)
  }
}

async function isFullTime({ metadata, now }: JobContext, rule: string): Promise<boolean> {
  const state = await gcState(metadata.read)
  return state.fullAt === null || state.rule !== rule || Math.abs(now() - state.fullAt) >= fullEveryMs
}

async function horizonOf({ ctx: { metadata, retention }, run }: Collection): Promise<Horizon> {
  const [row] = await metadata.read.all<{ epoch: number }>(`SELECT epoch FROM instance`)
  const epoch = row?.epoch ?? 0
  return {
    cold: epoch - retention.coldAfter,
    deleted: run.skipWindow !== 0 ? epoch : epoch - retention.windowAfter,
    untagged: epoch - (retention.untagged?.after ?? 0),
  }
}

/** Runs what was asked for, in whichever process has jobs, and asks by itself once in `intervalMs` (0: never). */
export function collectGarbageJob(options: { intervalMs: number }): Job {
  const actor = 'system:collect-garbage'
  return {
    name: 'collect-garbage',
    everyMs: pollMs,
    lease: 'own',
    due: async (ctx) => (await findWaitingRun(ctx.metadata.read, ctx.now())) !== undefined || (await isTime(ctx)),
    async run(ctx, signal) {
      if (await isTime(ctx)) await askForCollection(ctx, actor, { dryRun: false, now: false })
      const id = await findWaitingRun(ctx.metadata.read, ctx.now())
      const done = id === undefined ? undefined : await collectGarbage(ctx, id, actor, signal, 'waits')
      const { uploads = 0, manifests = 0, links = 0, blobs = 0, bytes = 0, files = 0 } = done ?? {}
      return { uploads, manifests, links, blobs, bytes, files }
    },
  }

  /** Whether the last collection of everything, or the first start where there was none, is long enough ago, and nobody paused it. */
  async function isTime(ctx: JobContext): Promise<boolean> {
    if (options.intervalMs === 0) return false
    const run = await findRun(ctx.metadata.read)
    if (run && run.state !== 'done') return false
    const [instance] = await ctx.metadata.read.all<{ createdAt: number }>(`SELECT created_at AS createdAt FROM instance`)
    // A clock that leapt back must not put the next run off for years.
    if (
      Math.abs(ctx.now() - ((await lastCollectionAt(ctx.metadata.read)) ?? instance?.createdAt ?? ctx.now())) < options.intervalMs
    )
      return false
    return (await gcState(ctx.metadata.read)).pausedBy === null
  }
}
