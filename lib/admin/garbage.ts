import type { MessageInitShape } from '@bufbuild/protobuf'
import { askForCollection, collectGarbage } from '../jobs/collect-garbage.ts'
import { findRun, type GcAsked, type GcRun } from '../metadata/gc-runs.ts'
import { ociError } from '../oci/errors.ts'
import { type GarbageCollectionSchema, RegistryService } from './gen/mcr/v1/registry_pb.ts'
import { stamp, stampOrNone } from './input.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'

const { runGarbageCollection, reconcileStorage, getGarbageCollectionStatus } = RegistryService.method

/** Garbage collection, asked for and looked at; a job runs it, in whichever process has jobs. */
export const garbageOperations: readonly Operation[] = [
  operation(runGarbageCollection, {
    summary: 'collect garbage, beside pushes and pulls; answers with the id of the run',
    action: 'gc:run',
    rest: { method: 'POST', path: '/v1/gc', status: 202 },
    cli: { words: 'gc run' },
    run: (input, call, ctx) => start({ dryRun: input.dryRun, now: input.now }, call, ctx),
  }),
  operation(reconcileStorage, {
    summary: 'remove files that no row names, such as a crash leaves; answers with the id of the run',
    action: 'gc:run',
    rest: { method: 'POST', path: '/v1/gc/reconcile', status: 202 },
    cli: { words: 'gc reconcile' },
    run: (input, call, ctx) => start({ kind: 'reconcile', dryRun: input.dryRun, now: false }, call, ctx),
  }),
  operation(getGarbageCollectionStatus, {
    summary: 'whether a garbage collection is under way, and what the last one did',
    action: 'gc:run',
    rest: { method: 'GET', path: '/v1/gc/status' },
    cli: { words: 'gc status' },
    async run(_input, _call, ctx) {
      const run = await findRun(ctx.metadata.read)
      return { running: run !== undefined && run.state !== 'done', lastRun: run && toMessage(run) }
    },
  }),
]

async function start(asked: GcAsked, call: OperationCall, ctx: AdminContext) {
  const id = await askForCollection(ctx, call.principal.subject, asked)
  if (id === undefined) throw ociError('CONFLICT', undefined, { message: 'a garbage collection is under way: see gc status' })
  const signal = call.signal ?? new AbortController().signal
  const run = ctx.collector && (await collectGarbage({ ...ctx, ...ctx.collector }, id, call.principal.subject, signal))
  return { id, run: toMessage(run ?? ((await findRun(ctx.metadata.read, id)) as GcRun)) }
}

function toMessage(run: GcRun): MessageInitShape<typeof GarbageCollectionSchema> {
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
  }
}
