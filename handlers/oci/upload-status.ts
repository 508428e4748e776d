import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { empty } from '../../lib/http/response.ts'
import { uploadHeaders } from '../../lib/http/upload-answer.ts'
import { findUpload } from '../../lib/metadata/uploads.ts'

/** GET /v2/<name>/blobs/uploads/<id>: how far an upload is. Whoever may pull or push may ask; clients come with either token. */
export default handler(
  endpoint({
    spec: 'end-13',
    method: 'GET',
    path: '/v2/:name+/blobs/uploads/:uploadId',
    action: ['registry:push', 'registry:pull'],
    errors: ['BLOB_UPLOAD_UNKNOWN', 'NAME_INVALID'],
    needs: ['metadata'],
    async handle({ params: { name, uploadId }, principal, error }, ctx) {
      const upload = await findUpload(ctx.metadata.read, name, uploadId, principal.subject, ctx.now())
      if (!upload) throw error('BLOB_UPLOAD_UNKNOWN', { upload: uploadId })
      const headers = uploadHeaders(name, uploadId, upload.size)
      // Only clients that resume at Range+1 ask this: 0-0 would make them skip the first byte of an empty upload.
      return empty(204, upload.size === 0 ? { ...headers, Range: '0--1' } : headers)
    },
  }),
)
