import { finishUpload } from '../blobs/finish.ts'
import type { Base, Ports } from '../context.ts'
import type { Actor } from '../journal/change.ts'
import { type BlobRow, damagedBlobs, visibleRepositories } from '../metadata/integrity.ts'
import { insertUpload } from '../metadata/uploads.ts'
import type { Digest } from '../oci/digest.ts'
import type { RepositoryName, UploadId } from '../oci/names.ts'
import type { RemoteRegistry } from '../remote/registry.ts'

/** `healed`; `absent`: the other registry does not have it; `failed`: what it gave cannot be used; `unused`: no repository shows it. */
export interface Repaired {
  digest: Digest
  repository: string
  outcome: 'healed' | 'absent' | 'failed' | 'unused'
  detail: string
}

type Needs = Base & Pick<Ports, 'metadata' | 'blobs' | 'limits'>

/**
 * Brings what is marked as damaged from another registry, through the way of every upload: its bytes must hash to the digest before they
 * are stored. It is looked for there under the names that its repositories have here, or under `sourceRepository`.
 * `digests` limits it to some. Yields one outcome a blob.
 */
export async function* repairBlobs(
  ctx: Needs,
  remote: RemoteRegistry,
  options: { digests: readonly Digest[]; sourceRepository: string | undefined; actor: Actor },
  signal: AbortSignal,
): AsyncGenerator<Repaired> {
  for (let after = ''; !signal.aborted; ) {
    const rows = await damagedBlobs(ctx.metadata.read, after)
    const last = rows.at(-1)
    if (!last) return
    for (const row of rows) {
      if (signal.aborted) return
      if (options.digests.length > 0 && !options.digests.includes(row.digest)) continue
      yield await repairBlob(ctx, remote, row, options, signal)
    }
    after = last.digest
  }
}

async function repairBlob(
  ctx: Needs,
  remote: RemoteRegistry,
  { digest, size }: BlobRow,
  { sourceRepository, actor }: { sourceRepository: string | undefined; actor: Actor },
  signal: AbortSignal,
): Promise<Repaired> {
  const repositories = await visibleRepositories(ctx.metadata.read, digest)
  const [home] = repositories
  if (!home) return { digest, repository: '', outcome: 'unused', detail: 'no repository shows it: what needed it was deleted' }
  let detail = ''
  let outcome: Repaired['outcome'] = 'absent'
  for (const source of sourceRepository === undefined ? repositories : [{ ...home, name: sourceRepository }]) {
    // It is stored where it was found under the same name, else in any repository that shows it: all of them see the same bytes.
    const target = sourceRepository === undefined ? source : home
    try {
      const body = await remote.blob(source.name, digest, signal)
      if (body === undefined) continue
      await store(ctx, actor, target, digest, size, body)
      return { digest, repository: target.name, outcome: 'healed', detail: `from ${source.name}` }
    } catch (error) {
      outcome = 'failed'
      const { code, message } = error as Error & { code?: string }
      detail = code === 'DIGEST_INVALID' || code === 'BLOB_LENGTH' || code === 'BLOB_TOO_LARGE' ? 'it gave other bytes' : message
    }
  }
  return { digest, repository: home.name, outcome, detail }
}

async function store(
  ctx: Needs,
  actor: Actor,
  { id, name }: { id: number; name: string },
  digest: Digest,
  size: number,
  body: unknown,
): Promise<void> {
  const inc = ctx.newId() as UploadId
  const repositoryId = id as never
  await ctx.metadata.write((sql) => insertUpload(sql, { inc, repositoryId, principal: actor.principal.subject, now: ctx.now() }))
  const upload = { inc, repositoryId, size: 0, segments: 0, algorithm: null, state: 'open' as const }
  await finishUpload(ctx, actor, name as RepositoryName, upload, digest, body, size, 'discard')
}
