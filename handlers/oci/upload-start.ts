import { finishUpload } from '../../lib/blobs/finish.ts'
import { announcedLength } from '../../lib/blobs/receive.ts'
import type { Base, Exchange, Ports } from '../../lib/context.ts'
import { type Call, endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { empty } from '../../lib/http/response.ts'
import { blobCreated, uploadHeaders } from '../../lib/http/upload-answer.ts'
import { change } from '../../lib/journal/change.ts'
import { findLinkedBlob, linkBlob, repositoriesWith } from '../../lib/metadata/blobs.ts'
import { ensureRepository } from '../../lib/metadata/repositories.ts'
import { countUploads, insertUpload, type Upload } from '../../lib/metadata/uploads.ts'
import { type Digest, parseAlgorithm, parseDigest } from '../../lib/oci/digest.ts'
import { parseRepositoryName, type RepositoryName, type UploadId } from '../../lib/oci/names.ts'

type Needs = Base & Pick<Ports, 'metadata' | 'blobs' | 'limits' | 'space'>
type Codes = 'DIGEST_INVALID' | 'SIZE_INVALID' | 'NAME_INVALID' | 'TOOMANYREQUESTS' | 'BLOB_UPLOAD_INVALID'

/** POST /v2/<name>/blobs/uploads/: mounts a blob, takes a whole one, or starts an upload; in that order, by its query. */
export default handler(
  endpoint({
    spec: ['end-4a', 'end-4b', 'end-4c', 'end-11'],
    method: 'POST',
    path: '/v2/:name+/blobs/uploads/',
    action: 'registry:push',
    errors: ['DIGEST_INVALID', 'SIZE_INVALID', 'NAME_INVALID', 'TOOMANYREQUESTS', 'BLOB_UPLOAD_INVALID'],
    needs: ['metadata', 'blobs', 'limits', 'space'],
    async handle(call, ctx) {
      const { query, params } = call
      ctx.space.admit()
      const mount = query.get('mount')
      if (mount !== null) {
        const digest = parseDigest(mount)
        if (await mountBlob(call, ctx, digest)) return blobCreated(params.name, digest)
      }
      const whole = mount === null ? query.get('digest') : null
      const digest = whole === null ? undefined : parseDigest(whole)
      const algorithm = query.get('digest-algorithm')
      const upload = await start(call, ctx, algorithm === null ? undefined : parseAlgorithm(algorithm))
      if (digest === undefined) return empty(202, uploadHeaders(params.name, upload.inc, 0))
      const actor = { principal: call.principal, exchange: call.exchange }
      await finishUpload(
        ctx,
        actor,
        params.name,
        upload,
        digest,
        call.request.body,
        announcedLength(call.request, null),
        'discard',
      )
      return blobCreated(params.name, digest)
    },
  }),
)

/** T1. The row is durable before the first file of the upload can exist. */
async function start(
  call: Call<'/v2/:name+/blobs/uploads/', Codes>,
  ctx: Needs,
  algorithm: Upload['algorithm'] | undefined,
): Promise<Upload> {
  const { principal, params, error } = call
  const inc = ctx.newId() as UploadId
  return await ctx.metadata.write(async (sql) => {
    if ((await countUploads(sql, principal.subject)) >= ctx.limits.uploadsPerPrincipal)
      throw error('TOOMANYREQUESTS', `more than ${ctx.limits.uploadsPerPrincipal} open uploads; finish or cancel some`, {
        headers: { 'Retry-After': '10' },
      })
    const repositoryId = await ensureRepository(sql, params.name, ctx.now())
    await insertUpload(sql, {
      inc,
      repositoryId,
      principal: principal.subject,
      algorithm: algorithm ?? undefined,
      now: ctx.now(),
    })
    return { inc, repositoryId, size: 0, segments: 0, algorithm: algorithm ?? null, state: 'open' }
  })
}

/**
 * end-11, T4m. Whatever prevents a mount is no refusal: the client gets an upload instead, and learns nothing about what it may not read.
 * Shape: whether the blob is now in this repository.
 */
async function mountBlob(call: Call<'/v2/:name+/blobs/uploads/', Codes>, ctx: Needs, digest: Digest): Promise<boolean> {
  const { name } = call.params
  const from = call.query.get('from')
  if (from !== null) {
    const source = parseRepositoryName(from)
    if (source !== name && !(await call.decide('registry:pull', { repository: source })).allow) return false
    // A token that never asked for the source is told to, once; one that asked and did not get it goes on with an upload.
    const access = call.caller.access
    if (access && source !== name && !access.some((entry) => entry.type === 'repository' && entry.name === source))
      throw call.insufficient(`repository:${name}:pull,push repository:${source}:pull`)
    if (
      access &&
      source !== name &&
      !access.some((e) => e.name === source && (e.actions.includes('pull') || e.actions.includes('*')))
    )
      return false
    return await link(call.principal, call.exchange, ctx, source, name, digest)
  }
  for (const source of await repositoriesWith(ctx.metadata.read, digest, name)) {
    if (source !== name && !(await call.decide('registry:pull', { repository: source })).allow) continue
    if (await link(call.principal, call.exchange, ctx, source, name, digest)) return true
  }
  return false
}

async function link(
  principal: { subject: string },
  exchange: Exchange,
  ctx: Needs,
  source: RepositoryName,
  name: RepositoryName,
  digest: Digest,
): Promise<boolean> {
  return await change(ctx, { principal, exchange }, async (sql, append) => {
    if (!(await findLinkedBlob(sql, source, digest))) return false
    await linkBlob(sql, await ensureRepository(sql, name, ctx.now()), digest)
    if (source !== name) append({ type: 'blob_mounted', repository: name, digest, detail: { from: source } })
    return true
  })
}
