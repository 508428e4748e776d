import { readBody } from '../../lib/http/body.ts'
import { type Call, endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { preconditionFailed, preconditionHolds } from '../../lib/http/precondition.ts'
import { empty } from '../../lib/http/response.ts'
import { change } from '../../lib/journal/change.ts'
import { missingReferences, storeManifest } from '../../lib/metadata/manifests.ts'
import { ensureRepository, showRepository } from '../../lib/metadata/repositories.ts'
import type { Sql } from '../../lib/metadata/sql.ts'
import { addTagHistory, findTag, setTag } from '../../lib/metadata/tags.ts'
import { algorithmOf, type Digest, digestOf } from '../../lib/oci/digest.ts'
import { parseManifest } from '../../lib/oci/manifest.ts'
import { isFallbackTag, parseTag, type Tag } from '../../lib/oci/names.ts'

const path = '/v2/:name+/manifests/:reference'
const errors = [
  'MANIFEST_INVALID',
  'MANIFEST_BLOB_UNKNOWN',
  'DIGEST_INVALID',
  'NAME_INVALID',
  'DENIED',
  'SIZE_INVALID',
  'UNSUPPORTED',
] as const

/**
 * PUT /v2/<name>/manifests/<reference>: stores a manifest whose references are all present, and points tags at it. One transaction: a
 * crash leaves all of it or none. With `If-Match` or `If-None-Match: *` it is a compare-and-swap of the tag.
 */
export default handler(
  endpoint({
    spec: ['end-7a', 'end-7b'],
    method: 'PUT',
    path,
    action: 'registry:push',
    errors,
    needs: ['metadata', 'limits', 'space'],
    async handle(call, ctx) {
      const { request, params, principal, exchange, error } = call
      const { name, reference } = params
      const tags = tagsOf(call, ctx.limits.tagsPerRequest)
      ctx.space.admit()
      const body = await readBody(request, ctx.limits.manifestBytes, 'MANIFEST_INVALID')
      const digest = await digestOf(body, reference.kind === 'digest' ? algorithmOf(reference.digest) : 'sha256')
      if (reference.kind === 'digest' && digest !== reference.digest)
        throw error('DIGEST_INVALID', { expected: reference.digest, actual: digest })
      const manifest = parseManifest(body, request.headers.get('content-type'), ctx.limits)
      const needed = ctx.limits.sparse === 'allow' ? [] : manifest.references.filter((entry) => entry.required)

      await change(ctx, { principal, exchange }, async (sql, append) => {
        const repositoryId = await ensureRepository(sql, name, ctx.now())
        const moves: { tag: Tag; old?: Digest }[] = []
        for (const tag of tags) moves.push({ tag, old: (await findTag(sql, repositoryId, tag))?.digest })
        if (reference.kind === 'tag') {
          const current = moves[0]?.old
          if (!preconditionHolds(request, current)) throw preconditionFailed(current)
        }
        for (const { tag, old } of moves) await requireTag(call, sql, tag, old !== undefined && old !== digest)
        const missing = await missingReferences(
          sql,
          repositoryId,
          needed.map((entry) => ({ digest: entry.digest, orManifest: entry.kind === 'child' })),
        )
        if (missing.length > 0) throw unknownReferences(error, missing)
        const { id } = await storeManifest(sql, repositoryId, manifest, digest, body, ctx.now())
        await showRepository(sql, repositoryId)
        const detail = { mediaType: manifest.mediaType, size: body.byteLength, tags }
        const eventId = append({ type: 'manifest_pushed', repository: name, digest, detail })
        for (const { tag, old } of moves) {
          await setTag(sql, repositoryId, tag, id, ctx.now())
          await addTagHistory(sql, { repositoryId, tag, old, new: digest, eventId, now: ctx.now() })
        }
      })

      return empty(201, {
        Location: `/v2/${name}/manifests/${digest}`,
        'Docker-Content-Digest': digest,
        ...(tags.length > 0 ? { 'OCI-Tag': tags.join(', ') } : {}),
        ...(manifest.subject ? { 'OCI-Subject': manifest.subject.digest } : {}),
      })
    },
  }),
)

type PutCall = Call<typeof path, (typeof errors)[number]>

/** The tags a request names: the one in its path, or those of `?tag=` beside a digest; each once, all valid or none stored. */
function tagsOf({ query, params: { reference }, error }: PutCall, most: number): Tag[] {
  const asked = query.getAll('tag')
  if (reference.kind === 'tag') {
    if (asked.length > 0) throw error('MANIFEST_INVALID', { tag: asked[0] }, { message: '?tag= goes with a digest in the path' })
    return [reference.tag]
  }
  if (asked.length > most) throw error('UNSUPPORTED', `more than ${most} tags`, { status: 414, message: 'too many tags' })
  return [...new Set(asked.map(parseTag))]
}

/**
 * P5: pointing a tag is decided inside the transaction that does it. Fallback tags of referrers are never immutable.
 * The code is not MANIFEST_INVALID or TAG_INVALID: podman takes those as "wrong format" and pushes again, converted.
 */
async function requireTag(call: PutCall, sql: Sql, tag: Tag, moves: boolean): Promise<void> {
  const resource = { repository: call.params.name, tag }
  await call.require('registry:push', resource, sql, `tag ${tag} may not be pushed`)
  if (moves && !isFallbackTag(tag))
    await call.require('registry:overwrite', resource, sql, `tag ${tag} exists and may not be overwritten`)
}

function unknownReferences(error: PutCall['error'], missing: readonly Digest[]): Error {
  const errors = missing.map((digest) => ({
    code: 'MANIFEST_BLOB_UNKNOWN' as const,
    message: 'manifest references what is not here',
    detail: { digest },
  }))
  return error('MANIFEST_BLOB_UNKNOWN', { digest: missing[0] }, { errors })
}
