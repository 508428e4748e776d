import type { MessageInitShape } from '@bufbuild/protobuf'
import { parseDigest } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'
import { openRemoteRegistry } from '../remote/registry.ts'
import { kinds } from '../verify/finding.ts'
import { repairBlobs } from '../verify/repair.ts'
import { type Verified, verifyStorage } from '../verify/verify.ts'
import { StorageService, type VerifiedSchema } from './gen/mcr/v1/storage_pb.ts'
import { repositoryOf } from './input.ts'
import { type AdminContext, type Operation, streaming } from './operation.ts'

const { verifyStorage: verify, repairStorage } = StorageService.method

/** Whether what is stored is whole, and getting back what is not. */
export const storageOperations: readonly Operation[] = [
  streaming(verify, {
    summary: 'prove that everything is there: references, links, rows and files; with deep every byte',
    action: 'system:read',
    rest: { method: 'POST', path: '/v1/storage/verify' },
    files: true,
    cli: { words: 'verify', hidden: true },
    async *stream({ deep }, { signal }, ctx) {
      const stop = signal ?? new AbortController().signal
      for await (const verified of verifyStorage({ ...ctx, blobs: blobsOf(ctx) }, { deep }, stop))
        yield { verified: toMessage(verified) }
    },
  }),
  streaming(repairStorage, {
    summary: 'bring what is damaged here from another registry; its bytes must hash to their digests',
    action: 'system:manage',
    rest: { method: 'POST', path: '/v1/storage/repair' },
    files: true,
    cli: { words: 'repair', hidden: true },
    async *stream({ from, username, password, realmHosts, sourceRepository, digests }, call, ctx) {
      const remote = openRemoteRegistry({ address: from, username, password, realmHosts, fetch: ctx.outgoing })
      const options = {
        digests: digests.map(parseDigest),
        sourceRepository: sourceRepository === '' ? undefined : repositoryOf(sourceRepository),
        actor: call,
      }
      const stop = call.signal ?? new AbortController().signal
      for await (const repaired of repairBlobs({ ...ctx, blobs: blobsOf(ctx) }, remote, options, stop)) yield { repaired }
    },
  }),
]

/** Errors: UNSUPPORTED where this process has no files. */
function blobsOf(ctx: AdminContext) {
  if (ctx.files) return ctx.files
  throw ociError('UNSUPPORTED', undefined, {
    status: 400,
    message: 'the files of blobs are not here: ask a process that mounts admin/storage, or the registry itself by --server',
  })
}

function toMessage(verified: Verified): MessageInitShape<typeof VerifiedSchema> {
  switch (verified.kind) {
    case 'finding': {
      const { finding } = verified
      return { kind: 'finding', finding: { ...finding, repositories: [...finding.repositories], ...kinds[finding.what] } }
    }
    case 'progress': {
      const { phase, done, total, bytes, totalBytes } = verified.progress
      const numbers = { done: BigInt(done), total: BigInt(total), bytes: BigInt(bytes), totalBytes: BigInt(totalBytes) }
      return { kind: 'progress', progress: { phase, ...numbers } }
    }
    case 'result': {
      const { counts } = verified
      return {
        kind: 'result',
        result: {
          ok: counts.damage === 0,
          manifests: BigInt(counts.manifests),
          tags: BigInt(counts.tags),
          links: BigInt(counts.links),
          blobs: BigInt(counts.blobs),
          bytes: BigInt(counts.bytes),
          files: BigInt(counts.files),
          damaged: BigInt(counts.damage),
          orphans: BigInt(counts.orphan),
          absent: BigInt(counts.absent),
          healed: BigInt(counts.healed),
        },
      }
    }
  }
}
