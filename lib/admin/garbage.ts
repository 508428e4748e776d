import type { MessageInitShape } from '@bufbuild/protobuf'
import { askForCollection, collectGarbage } from '../jobs/collect-garbage.ts'
import { rest } from '../jobs/job.ts'
import { change } from '../journal/change.ts'
import { pinned } from '../metadata/garbage.ts'
import { queueState } from '../metadata/garbage-queue.ts'
import { listFindings } from '../metadata/gc-findings.ts'
import { findRun, findWaitingRun, type GcAsked, type GcRun, gcState, setPaused } from '../metadata/gc-runs.ts'
import { ociError } from '../oci/errors.ts'
import { type GarbageCollectionSchema, RegistryService } from './gen/mcr/v1/registry_pb.ts'
import { cutPage, invalid, parseAdminPage, stamp, stampOrNone } from './input.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'
import { mustFindRepository } from './repositories.ts'

const { runGarbageCollection, reconcileStorage, getGarbageCollectionStatus } = RegistryService.method
const { pauseGarbageCollection, resumeGarbageCollection, listGarbageFindings } = RegistryService.method

/** How often a run that another process has is looked at. */
const pollMs = 250

/** Garbage collection, asked for and looked at; a job runs it, in whichever process has jobs. */
export const garbageOperations: readonly Operation[] = [
  operation(runGarbageCollection, {
    summary: 'collect garbage, beside pushes and pulls; answers with the id of the run',
    action: 'gc:run',
    rest: { method: 'POST', path: '/v1/gc', status: 202 },
    cli: { words: 'gc run' },
    async run({ dryRun, now, full, repository }, call, ctx) {
      const repoId = repository === '' ? undefined : await mustFindRepository(ctx.metadata.read, repository)
      return await start({ dryRun, now, full, repoId }, call, ctx)
    },
  }),
  operation(reconcileStorage, {
    summary: 'remove files that no row names, such as a crash leaves; answers with the id of the run',
    action: 'gc:run',
    rest: { method: 'POST', path: '/v1/gc/reconcile', status: 202 },
    cli: { words: 'gc reconcile' },
    run: (input, call, ctx) => start({ kind: 'reconcile', dryRun: input.dryRun, now: false }, call, ctx),
  }),
  operation(getGarbageCollectionStatus, {
    summary: 'what a garbage collection does or did, and what waits for the next',
    action: 'gc:run',
    rest: { method: 'GET', path: '/v1/gc/status' },
    cli: { words: 'gc status', args: ['id'] },
    async run({ id }, _call, ctx) {
      const sql = ctx.metadata.read
      const run = await findRun(sql, id === '' ? undefined : id)
      if (id !== '' && !run)
        throw ociError('NOT_FOUND', undefined, { message: 'there is no such run: the last hundred are kept' })
      const { pausedBy, pausedAt } = await gcState(sql)
      const { manifests, links, blobs, oldest, trash, epoch } = await queueState(sql)
      const [pin] = await sql.all<{ held: number }>(`SELECT ${pinned} AS held`)
      return {
        running: run !== undefined && run.state !== 'done',
        lastRun: run && (await toMessage(run, ctx)),
        paused: pausedBy !== null,
        pausedBy: pausedBy ?? '',
        pausedAt: stampOrNone(pausedAt),
        queue: BigInt(manifests + links + blobs),
        oldestEpochs: BigInt(oldest === null ? 0 : Math.max(0, epoch - oldest)),
        trash: BigInt(trash),
        pinned: pin?.held === 1,
      }
    },
  }),
  operation(pauseGarbageCollection, {
    summary: 'remove nothing until gc resume: no row, no file, no idle upload; a run under way waits',
    action: 'gc:run',
    rest: { method: 'POST', path: '/v1/gc/pause' },
    cli: { words: 'gc pause' },
    run: async (_input, call, ctx) => ({ paused: true, changed: await pause(call.principal.subject, call, ctx) }),
  }),
  operation(resumeGarbageCollection, {
    summary: 'let garbage collection go on',
    action: 'gc:run',
    rest: { method: 'POST', path: '/v1/gc/resume' },
    cli: { words: 'gc resume' },
    run: async (_input, call, ctx) => ({ paused: false, changed: await pause(null, call, ctx) }),
  }),
  operation(listGarbageFindings, {
    summary: 'what a dry run found: each manifest, link and blob that would go, and why',
    action: 'gc:run',
    rest: { method: 'GET', path: '/v1/gc/findings' },
    cli: { words: 'gc findings', args: ['id'], columns: ['kind', 'repository', 'digest', 'size', 'shared', 'why'] },
    async run(input, _call, ctx) {
      const { limit, after } = parseAdminPage(input)
      const [last] = await ctx.metadata.read.all<{ id: string }>(
        `SELECT id FROM gc_runs WHERE dry_run = 1 AND kind = 'collect' AND (? = '' OR id = ?) ORDER BY asked_at DESC, id LIMIT 1`,
        [input.id, input.id],
      )
      if (!last) throw ociError('NOT_FOUND', undefined, { message: 'no dry run has run: gc run --dry-run' })
      const found = await listFindings(ctx.metadata.read, last.id, parseAfter(after), limit + 1)
      const { rows, next } = cutPage(found, limit, ({ kind, repoId, digest }) => `${kind} ${repoId} ${digest}`)
      return {
        findings: rows.map(({ kind, repository, digest, why, size, shared }) => ({
          kind,
          repository: repository ?? '',
          digest,
          why,
          size: BigInt(size),
          shared: BigInt(shared),
        })),
        next,
      }
    },
  }),
]

function parseAfter(after: string): { kind: string; repoId: number; digest: string } {
  if (after === '') return { kind: '', repoId: 0, digest: '' }
  const match = /^(manifest|link|blob) ([0-9]{1,15}) (\S+)$/.exec(after)
  if (!match) throw invalid('after', 'the `next` of the page before')
  return { kind: match[1] as string, repoId: Number(match[2]), digest: match[3] as string }
}

async function pause(by: string | null, call: OperationCall, ctx: AdminContext): Promise<boolean> {
  return await change(ctx, call, async (sql, append) => {
    const changed = await setPaused(sql, by, ctx.now())
    if (changed) append({ type: by === null ? 'gc_resumed' : 'gc_paused' })
    return changed
  })
}

async function start(asked: GcAsked, call: OperationCall, ctx: AdminContext) {
  if (!asked.dryRun && (await gcState(ctx.metadata.read)).pausedBy !== null)
    throw ociError('CONFLICT', undefined, { message: 'garbage collection is paused: gc resume lets it go on' })
  const { subject } = call.principal
  const signal = call.signal ?? new AbortController().signal
  const { collector } = ctx
  const collect = async (run: string) =>
    collector && (await collectGarbage({ ...ctx, ...collector }, run, subject, signal, 'ends'))
  // Where no other process may be there to go on with it, what one has left is ended first.
  const left = collector && (await findWaitingRun(ctx.metadata.read, ctx.now()))
  if (left !== undefined) await collect(left)
  const id = await askForCollection(ctx, subject, asked)
  if (id === undefined) throw ociError('CONFLICT', undefined, { message: 'a garbage collection is under way: see gc status' })
  let run = (await collect(id)) ?? ((await findRun(ctx.metadata.read, id)) as GcRun)
  // Where it is run here it is answered when it has ended, also if a process with the job was quicker to take it.
  while (collector && run.state !== 'done' && !signal.aborted) {
    await rest(pollMs, signal)
    await collect(id)
    run = (await findRun(ctx.metadata.read, id)) ?? run
  }
  return { id, run: await toMessage(run, ctx) }
}

async function toMessage(run: GcRun, ctx: AdminContext): Promise<MessageInitShape<typeof GarbageCollectionSchema>> {
  const [repository] =
    run.repoId === null
      ? []
      : await ctx.metadata.read.all<{ name: string }>(`SELECT name FROM repositories WHERE id = ?`, [run.repoId])
  const part = run.progress / 1_000_000
  const left = run.phaseAt === null || part === 0 ? undefined : ((ctx.now() - run.phaseAt) * (1 - part)) / part
  return {
    id: run.id,
    startedAt: stamp(run.startedAt ?? run.askedAt),
    completedAt: stampOrNone(run.completedAt),
    dryRun: run.dryRun !== 0,
    manifestsRemoved: BigInt(run.manifests),
    linksRemoved: BigInt(run.links),
    blobsRemoved: BigInt(run.blobs),
    bytesFreed: BigInt(run.bytes),
    error: run.error,
    kind: run.kind,
    orphansRemoved: BigInt(run.orphans),
    uploadsExpired: BigInt(run.uploads),
    filesRemoved: BigInt(run.files),
    fileBytesFreed: BigInt(run.reaped),
    fileBytesShared: BigInt(run.shared),
    failures: BigInt(run.failures),
    now: run.skipWindow !== 0,
    full: run.full !== 0,
    repository: repository?.name ?? '',
    phase: run.phase,
    progress: Math.floor(part * 100),
    estimatedAt: stampOrNone(run.state === 'running' && left !== undefined ? ctx.now() + left : undefined),
    transactions: BigInt(run.batches),
    writerHeldMs: BigInt(Math.ceil(run.heldUs / 1000)),
    writerHeldMaxMs: BigInt(Math.ceil(run.heldMaxUs / 1000)),
  }
}
