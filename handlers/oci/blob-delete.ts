import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { empty, releaseHeaders } from '../../lib/http/response.ts'
import { change } from '../../lib/journal/change.ts'
import { findLinkedBlob, hideLink, isReferenced } from '../../lib/metadata/blobs.ts'
import { releasedBlobBytes, releaseOf } from '../../lib/metadata/released.ts'
import { findRepository } from '../../lib/metadata/repositories.ts'

/**
 * DELETE /v2/<name>/blobs/<digest>: takes the blob out of this repository; others that hold it keep it. One that a manifest of this
 * repository needs is not taken: that would break an image that still stands. `MCR-*` headers say how many bytes go, and when.
 */
export default handler(
  endpoint({
    spec: 'end-10',
    method: 'DELETE',
    path: '/v2/:name+/blobs/:digest',
    action: 'registry:delete',
    errors: ['BLOB_UNKNOWN', 'NAME_UNKNOWN', 'DIGEST_INVALID', 'NAME_INVALID', 'UNSUPPORTED'],
    needs: ['metadata', 'limits', 'retention'],
    async handle({ params: { name, digest }, principal, exchange, error }, ctx) {
      if (!ctx.limits.deleteEnabled) throw error('UNSUPPORTED', 'deleting is switched off', { headers: { Allow: 'GET, HEAD' } })
      const release = await change(ctx, { principal, exchange }, async (sql, append) => {
        if ((await findRepository(sql, name)) === undefined) throw error('NAME_UNKNOWN', { name })
        const blob = await findLinkedBlob(sql, name, digest)
        if (!blob) throw error('BLOB_UNKNOWN', { name, digest })
        if (await isReferenced(sql, blob.repositoryId, digest))
          throw error(
            'UNSUPPORTED',
            { digest },
            { message: 'a manifest refers to this blob; delete the manifest', headers: { Allow: 'GET, HEAD' } },
          )
        await hideLink(sql, blob.repositoryId, digest)
        append({ type: 'blob_deleted', repository: name, digest, detail: { size: blob.size } })
        const released = await releasedBlobBytes(sql, blob.repositoryId, digest)
        return await releaseOf(sql, ctx.retention, ctx.now(), released)
      })
      return empty(202, { 'Docker-Content-Digest': digest, ...releaseHeaders(release) })
    },
  }),
)
