import { type Call, endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { preconditionFailed, preconditionHolds } from '../../lib/http/precondition.ts'
import { empty, releaseHeaders } from '../../lib/http/response.ts'
import { type Append, change } from '../../lib/journal/change.ts'
import { deleteManifest, findManifest, type StoredManifest, touchManifest } from '../../lib/metadata/manifests.ts'
import { releasedBytes, releaseOf, releaseOfUntag } from '../../lib/metadata/released.ts'
import { findRepository } from '../../lib/metadata/repositories.ts'
import type { Sql } from '../../lib/metadata/sql.ts'
import { addTagHistory, removeTag, tagsOf } from '../../lib/metadata/tags.ts'
import type { Tag } from '../../lib/oci/names.ts'

const path = '/v2/:name+/manifests/:reference'
const errors = ['MANIFEST_UNKNOWN', 'NAME_UNKNOWN', 'NAME_INVALID', 'DIGEST_INVALID', 'UNSUPPORTED', 'DENIED'] as const

/**
 * DELETE /v2/<name>/manifests/<reference>: a tag goes alone, its manifest stays; a digest goes with every tag that points at it. What a
 * deleted manifest refers to stays protected until it can no longer be brought back. `MCR-*` headers say how many bytes go, and when.
 */
export default handler(
  endpoint({
    spec: 'end-9',
    method: 'DELETE',
    path,
    action: 'registry:delete',
    errors,
    needs: ['metadata', 'limits', 'retention'],
    async handle(call, ctx) {
      const { request, params, principal, exchange, error } = call
      const { name, reference } = params
      if (!ctx.limits.deleteEnabled)
        throw error('UNSUPPORTED', 'deleting is switched off', { headers: { Allow: 'GET, HEAD, PUT' } })
      const { digest, release } = await change(ctx, { principal, exchange }, async (sql, append) => {
        if ((await findRepository(sql, name)) === undefined) throw error('NAME_UNKNOWN', { name })
        const manifest = await findManifest(sql, name, reference)
        if (!preconditionHolds(request, manifest?.digest)) throw preconditionFailed(manifest?.digest)
        if (!manifest)
          throw error('MANIFEST_UNKNOWN', { name, reference: reference.kind === 'tag' ? reference.tag : reference.digest })
        const tags = reference.kind === 'tag' ? [reference.tag] : await tagsOf(sql, manifest.repositoryId, manifest.id)
        for (const tag of tags) await untag(call, sql, append, manifest, tag, ctx.now())
        const { id, digest, repositoryId: repoId } = manifest
        if (reference.kind === 'tag') {
          await touchManifest(sql, id)
          return {
            digest,
            release: await releaseOfUntag(sql, ctx.retention, ctx.now(), { repository: name, repoId, id, digest }),
          }
        }
        await deleteManifest(sql, id)
        append({ type: 'manifest_deleted', repository: name, digest, detail: { tags } })
        return { digest, release: await releaseOf(sql, ctx.retention, ctx.now(), await releasedBytes(sql, repoId, id)) }
      })
      return empty(202, { 'Docker-Content-Digest': digest, ...releaseHeaders(release) })
    },
  }),
)

/** P5: every tag that changes is asked for, in the transaction that changes it. */
async function untag(
  call: Call<typeof path, (typeof errors)[number]>,
  sql: Sql,
  append: Append,
  manifest: StoredManifest,
  tag: Tag,
  now: number,
): Promise<void> {
  const repository = call.params.name
  await call.require('registry:delete', { repository, tag }, sql, `tag ${tag} may not be deleted`)
  await removeTag(sql, manifest.repositoryId, tag)
  const eventId = append({ type: 'tag_deleted', repository, digest: manifest.digest, tag })
  await addTagHistory(sql, { repositoryId: manifest.repositoryId, tag, old: manifest.digest, eventId, now })
}
