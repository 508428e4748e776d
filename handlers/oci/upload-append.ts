import { whileAlive } from '../../lib/blobs/finish.ts'
import { announcedLength, chunkRange, outOfOrder } from '../../lib/blobs/receive.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { empty } from '../../lib/http/response.ts'
import { uploadHeaders } from '../../lib/http/upload-answer.ts'
import { appendSegment, findUpload } from '../../lib/metadata/uploads.ts'

/**
 * PATCH /v2/<name>/blobs/uploads/<id>: one body, whole or not at all, goes to the end of the upload. With or without `Content-Range`,
 * with or without a length. A body that is cut leaves the offset where the request found it.
 */
export default handler(
  endpoint({
    spec: 'end-5',
    method: 'PATCH',
    path: '/v2/:name+/blobs/uploads/:uploadId',
    action: 'registry:push',
    errors: ['BLOB_UPLOAD_UNKNOWN', 'BLOB_UPLOAD_INVALID', 'SIZE_INVALID', 'NAME_INVALID'],
    needs: ['metadata', 'blobs', 'limits'],
    async handle({ request, params: { name, uploadId }, principal, error }, ctx) {
      const upload = await findUpload(ctx.metadata.read, name, uploadId, principal.subject, ctx.now())
      if (!upload) throw error('BLOB_UPLOAD_UNKNOWN', { upload: uploadId })
      if (upload.state === 'finishing') throw outOfOrder(name, upload)
      const expected = announcedLength(request, chunkRange(request, name, upload))
      if (expected === 0) return empty(202, uploadHeaders(name, uploadId, upload.size))
      const limit = ctx.limits.blobBytes - upload.size
      const segment = await whileAlive(ctx, upload, null, () =>
        ctx.blobs.writeSegment(uploadId, request.body, { limit, expected }),
      )
      if (segment.size === 0) {
        await ctx.blobs.dropSegment(uploadId, segment.part)
        return empty(202, uploadHeaders(name, uploadId, upload.size))
      }
      if (!(await ctx.metadata.write((sql) => appendSegment(sql, upload, segment, principal.subject, ctx.now())))) {
        await ctx.blobs.dropSegment(uploadId, segment.part)
        const now = await findUpload(ctx.metadata.read, name, uploadId, principal.subject, ctx.now())
        throw now ? outOfOrder(name, now) : error('BLOB_UPLOAD_UNKNOWN', { upload: uploadId })
      }
      return empty(202, uploadHeaders(name, uploadId, upload.size + segment.size))
    },
  }),
)
