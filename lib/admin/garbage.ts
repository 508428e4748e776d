import type { MessageInitShape } from '@bufbuild/protobuf'
import { askForCollection, collectGarbage, findRun, type GcRun } from '../jobs/collect-garbage.ts'
import { ociError } from '../oci/errors.ts'
import { type GarbageCollectionSchema, RegistryService } from './gen/mcr/v1/registry_pb.ts'
import { stamp, stampOrNone } from './input.ts'
import { type Operation, operation } from './operation.ts'

const { runGarbageCollection, getGarbageCollectionStatus } = RegistryService.method

/** Garbage collection, asked for and looked at; a job runs it, in whichever process has jobs. */
export const garbageOperations: readonly Operation[] = [
  operation(runGarbageCollection, {
    summary: 'collect garbage, beside pushes and pulls; answers with the id of the run',
    action: 'gc:run',
    rest: { method: 'POST', path: '/v1/gc', status: 202 },
    cli: { words: 'gc run' },
    async run(input, call, ctx) {
      const id = await askForCollection(ctx, call.principal.subject, { dryRun: input.dryRun, now: input.now })
      if (id === undefined) throw ociError('CONFLICT', undefined, { message: 'a garbage collection is under way: see gc status' })
      const run =
        ctx.collector &&
        (await collectGarbage(
          { ...ctx, ...ctx.collector },
          id,
          { ...ctx.collector, actor: call.principal.subject },
          call.signal ?? new AbortController().signal,
        ))
      return { id, run: toMessage(run ?? ((await findRun(ctx, id)) as GcRun)) }
    },
  }),
  operation(getGarbageCollectionStatus, {
    summary: 'whether a garbage collection is under way, and what the last one did',
    action: 'gc:run',
    rest: { method: 'GET', path: '/v1/gc/status' },
    cli: { words: 'gc status' },
    async run(_input, _call, ctx) {
      const run = await findRun(ctx)
      return { running: run !== undefined && run.state !== 'done', lastRun: run && toMessage(run) }
    },
  }),
]

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
  }
}
