import { abandon } from '../../lib/blobs/finish.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { empty } from '../../lib/http/response.ts'
import { findUpload } from '../../lib/metadata/uploads.ts'

/** DELETE /v2/<name>/blobs/uploads/<id>: forgets an upload. Push suffices: podman cancels what a missed mount left it. */
export default handler(
  endpoint({
    spec: 'end-14',
    method: 'DELETE',
    path: '/v2/:name+/blobs/uploads/:uploadId',
    action: 'registry:push',
    errors: ['BLOB_UPLOAD_UNKNOWN', 'NAME_INVALID'],
    needs: ['metadata', 'blobs', 'limits'],
    async handle({ params: { name, uploadId }, principal, error }, ctx) {
      const upload = await findUpload(ctx.metadata.read, name, uploadId, principal.subject, ctx.now())
      if (!upload || !(await abandon(ctx, upload))) throw error('BLOB_UPLOAD_UNKNOWN', { upload: uploadId })
      return empty(204)
    },
  }),
)
