import { finishUpload } from '../../lib/blobs/finish.ts'
import { announcedLength, chunkRange, outOfOrder } from '../../lib/blobs/receive.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { blobCreated } from '../../lib/http/upload-answer.ts'
import { findLinkedBlob, touchLink } from '../../lib/metadata/blobs.ts'
import { findUpload } from '../../lib/metadata/uploads.ts'
import { parseDigest } from '../../lib/oci/digest.ts'

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
      const upload = await findUpload(ctx.metadata.read, name, uploadId, principal.subject, ctx.now())
      if (!upload) {
        // S13: a client that lost our 201 asks again. The digest being here, for somebody who may push, is the same answer.
        const linked = await findLinkedBlob(ctx.metadata.read, name, digest)
        if (!linked) throw error('BLOB_UPLOAD_UNKNOWN', { upload: uploadId })
        await ctx.metadata.write((sql) => touchLink(sql, linked.repositoryId, digest))
        return blobCreated(name, digest)
      }
      const range = chunkRange(request, name, upload)
      if (upload.state === 'finishing') throw outOfOrder(name, upload)
      const expected = announcedLength(request, range)
      await finishUpload(ctx, { principal, exchange }, name, upload, digest, request.body, expected, 'keep')
      return blobCreated(name, digest)
    },
  }),
)
