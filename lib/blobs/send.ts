import type { RegistryContext } from '../context.ts'
import { ifRangeAllows } from '../http/conditional.ts'
import { multipart } from '../http/multipart.ts'
import type { LinkedBlob } from '../metadata/blobs.ts'
import type { Digest } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'
import { parseRange } from '../oci/range.ts'

/** A blob that may be read, and the headers of its whole. */
export interface BlobAnswer {
  blob: LinkedBlob
  headers: Record<string, string>
}

/** The body that `Range` and `If-Range` ask for (RFC 9110 §14); undefined when the file does not fit its row. */
export async function sendBlob(
  ctx: Pick<RegistryContext, 'blobs' | 'limits' | 'newId'>,
  request: Request,
  { blob, headers }: BlobAnswer,
  digest: Digest,
): Promise<Response | undefined> {
  const asked = request.headers.get('range')
  const honoured = asked !== null && ifRangeAllows(request.headers.get('if-range'), headers.ETag as string) ? asked : null
  const range = parseRange(honoured, blob.size, ctx.limits.ranges)
  switch (range.kind) {
    case 'whole': {
      const body = await ctx.blobs.open(digest, blob.inc, blob.size)
      return body === undefined ? undefined : new Response(body, { headers })
    }
    case 'single': {
      const { first, last } = range
      const body = await ctx.blobs.open(digest, blob.inc, blob.size, { first, last })
      if (body === undefined) return undefined
      const length = { 'Content-Length': String(last - first + 1), 'Content-Range': `bytes ${first}-${last}/${blob.size}` }
      return new Response(body, { status: 206, headers: { ...headers, ...length } })
    }
    case 'multi': {
      const parts = multipart(range.ranges, blob.size, ctx.newId())
      const body = await ctx.blobs.openPieces(digest, blob.inc, blob.size, parts.pieces)
      if (body === undefined) return undefined
      return new Response(body, { status: 206, headers: { ...headers, ...parts.headers } })
    }
    case 'too-many':
      throw ociError('UNSUPPORTED', `more than ${ctx.limits.ranges} ranges`, { status: 400, message: 'too many ranges' })
    case 'unsatisfiable':
      throw ociError(
        'BLOB_UPLOAD_INVALID',
        { range: asked, size: blob.size },
        {
          status: 416,
          message: 'range not satisfiable',
          headers: { 'Content-Range': `bytes */${blob.size}` },
        },
      )
  }
}
