import { change } from '../journal/change.ts'
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
import {
  addRun,
  endRun,
  findRun,
  findWaitingRun,
  type GcAsked,
  type GcCounts,
  type GcRun,
  noteRun,
  takeRun,
} from '../metadata/gc-runs.ts'
import { expire } from './expire-uploads.ts'
import type { Job, JobContext } from './job.ts'
import { reap } from './reap-trash.ts'
import { sweepOrphans } from './sweep-orphans.ts'

const pollMs = 250
const beatMs = 1_000

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
 * Shape: the run as it ended. `undefined`: it was not there to be taken, or another process took it over.
 */
export async function collectGarbage(
  ctx: JobContext,
  id: string,
  actor: string,
  signal: AbortSignal,
): Promise<GcRun | undefined> {
  const holder = ctx.newId()
  if (!(await ctx.metadata.write((sql) => takeRun(sql, id, holder, ctx.now())))) return undefined
  const run = (await findRun(ctx.metadata.read, id)) as GcRun
  const by = { principal: { subject: actor } }
  await change(ctx, by, async (_sql, append) => {
    append({ type: 'gc_started', detail: { gc_id: id, dry_run: run.dryRun !== 0, now: run.skipWindow !== 0 } })
  })
  const stop = new AbortController()
  const note = async (more: GcCounts) => {
    if (!(await ctx.metadata.write((sql) => noteRun(sql, id, holder, ctx.now(), more)))) stop.abort()
  }
  const beat = setInterval(() => {
    note({}).catch((error) => ctx.log({ level: 'warn', event: 'gc_heartbeat_failed', error: String(error) }))
  }, beatMs)
  let error = ''
  try {
    await work(ctx, run, note, AbortSignal.any([signal, stop.signal]))
    if (signal.aborted) error = 'stopped; the next run goes on'
  } catch (failure) {
    error = (failure as Error).message
  } finally {
    clearInterval(beat)
  }
  return await change(ctx, by, async (sql, append) => {
    const done = await endRun(sql, id, holder, ctx.now(), error)
    if (!done) return undefined
    const { uploads, manifests, links, blobs, bytes, orphans } = done
    const detail = { gc_id: id, dry_run: run.dryRun !== 0, uploads, manifests, links, blobs, bytes, orphans }
    append({ type: 'gc_completed', detail: error ? { ...detail, error } : detail })
    return done
  })
}

type Note = (more: GcCounts) => Promise<void>

async function work(ctx: JobContext, run: GcRun, note: Note, signal: AbortSignal): Promise<void> {
  const dryRun = run.dryRun !== 0
  if (run.kind === 'reconcile') return void (await sweepOrphans(ctx, { dryRun }, signal, (orphans) => note({ orphans })))
  const horizon = await horizonOf(ctx, run.skipWindow !== 0)
  if (dryRun) return await note(await foresee(ctx.metadata.read, horizon))
  await note({ uploads: await expire(ctx, signal) })
  await sweep(ctx, horizon, note, signal)
  await reap(ctx, run.skipWindow !== 0 ? 0 : ctx.retention.quarantineAfter, signal)
}

async function horizonOf({ metadata, retention }: JobContext, now: boolean): Promise<Horizon> {
  const [row] = await metadata.read.all<{ epoch: number }>(`SELECT epoch FROM instance`)
  const epoch = row?.epoch ?? 0
  return { cold: epoch - retention.coldAfter, deleted: now ? epoch : epoch - retention.windowAfter }
}

async function sweep(ctx: JobContext, horizon: Horizon, note: Note, signal: AbortSignal): Promise<void> {
  for (;;) {
    if (signal.aborted) return
    const manifests = await ctx.metadata.write((sql) => dropManifests(sql, horizon))
    if (manifests === 0) break
    await note({ manifests })
  }
  for (let at: LinkKey | undefined = { repoId: 0, digest: '' }; at; ) {
    const { found, next } = await lookAtLinks(ctx.metadata.read, at, horizon)
    for (const batch of batches(found)) {
      if (signal.aborted) return
      await note({ links: await ctx.metadata.write((sql) => dropLinks(sql, batch, horizon)) })
    }
    at = next
    await breathe()
  }
  for (let at: string | undefined = ''; at !== undefined; ) {
    const { found, next } = await lookAtBlobs(ctx.metadata.read, at, horizon)
    for (const batch of batches(found)) {
      if (signal.aborted) return
      await note(await ctx.metadata.write((sql) => dropBlobs(sql, batch, horizon)))
    }
    at = next
    await breathe()
  }
  // Repositories whose last link went just now.
  await ctx.metadata.write((sql) => dropManifests(sql, horizon))
}

/** Requests first: looking holds the event loop for milliseconds at a time. */
const breathe = () => new Promise((resolve) => setTimeout(resolve, 1))

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
      const done = id === undefined ? undefined : await collectGarbage(ctx, id, actor, signal)
      const { uploads = 0, manifests = 0, links = 0, blobs = 0, bytes = 0 } = done ?? {}
      return { uploads, manifests, links, blobs, bytes }
    },
  }

  /** Whether the last run, or the first start where there was none, is long enough ago. */
  async function isTime(ctx: JobContext): Promise<boolean> {
    if (options.intervalMs === 0) return false
    const run = await findRun(ctx.metadata.read)
    if (run && run.state !== 'done') return false
    const [instance] = await ctx.metadata.read.all<{ createdAt: number }>(`SELECT created_at AS createdAt FROM instance`)
    return ctx.now() - (run?.askedAt ?? instance?.createdAt ?? ctx.now()) >= options.intervalMs
  }
}
