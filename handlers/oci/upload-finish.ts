import { finishUpload } from '../../lib/blobs/finish.ts'
import { announcedLength, chunkRange } from '../../lib/blobs/receive.ts'
import type { Base } from '../../lib/context.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { blobCreated } from '../../lib/http/upload-answer.ts'
import { findLinkedBlob, touchLink } from '../../lib/metadata/blobs.ts'
import { findUpload, type Upload } from '../../lib/metadata/uploads.ts'
import { parseDigest } from '../../lib/oci/digest.ts'
import { ociError } from '../../lib/oci/errors.ts'

/** PUT /v2/<name>/blobs/uploads/<id>?digest=: the last bytes, or none, or all of them; then the blob is there. */
export default handler(
  endpoint({
    spec: 'end-6',
    method: 'PUT',
    path: '/v2/:name+/blobs/uploads/:uploadId',
    action: 'registry:push',
    errors: ['BLOB_UPLOAD_UNKNOWN', 'BLOB_UPLOAD_INVALID', 'DIGEST_INVALID', 'SIZE_INVALID', 'NAME_INVALID'],
    needs: ['metadata', 'blobs', 'limits'],
    async handle({ request, params: { name, uploadId }, query, principal, exchange, error }, ctx) {
      const text = query.get('digest')
      if (text === null) throw error('DIGEST_INVALID', 'the query has no digest=')
      const digest = parseDigest(text)
      const upload = await untilFree(ctx, () => findUpload(ctx.metadata.read, name, uploadId, principal.subject, ctx.now()))
      if (!upload) {
        // S13: a client that lost our 201 asks again. The digest being here, for somebody who may push, is the same answer.
        const linked = await findLinkedBlob(ctx.metadata.read, name, digest)
        if (!linked) throw error('BLOB_UPLOAD_UNKNOWN', { upload: uploadId })
        await ctx.metadata.write((sql) => touchLink(sql, linked.repositoryId, digest))
        return blobCreated(name, digest)
      }
      const range = chunkRange(request, name, upload)
      const expected = announcedLength(request, range)
      await finishUpload(ctx, { principal, exchange }, name, upload, digest, request.body, expected, 'keep')
      return blobCreated(name, digest)
    },
  }),
)

const waitMs = 60_000

/**
 * S12. A client whose first PUT is still being joined asks again after its own timeout: it waits for that one to end, and then finds the
 * blob linked, or the upload open.
 * Errors: UNAVAILABLE 503 after a minute.
 */
async function untilFree(ctx: Base, look: () => Promise<Upload | undefined>): Promise<Upload | undefined> {
  for (const deadline = ctx.now() + waitMs; ; ) {
    const upload = await look()
    if (upload?.state !== 'finishing') return upload
    if (ctx.now() > deadline)
      throw ociError('UNAVAILABLE', 'another request is still finishing this upload', { headers: { 'Retry-After': '10' } })
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
}
