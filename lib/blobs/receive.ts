import { uploadHeaders } from '../http/upload-answer.ts'
import type { Upload } from '../metadata/uploads.ts'
import { ociError } from '../oci/errors.ts'
import type { RepositoryName } from '../oci/names.ts'
import { parseContentRange } from '../oci/range.ts'

/**
 * How many bytes a body says it has: from `Content-Range`, else `Content-Length`, else unknown.
 * Errors: SIZE_INVALID where the two differ; BLOB_UPLOAD_INVALID where `Content-Range` is garbage.
 */
export function announcedLength(request: Request, contentRange: { first: number; last: number } | null): number | undefined {
  const header = request.headers.get('content-length')
  const length = header === null ? undefined : Number(header)
  if (!contentRange) return length
  const ranged = contentRange.last - contentRange.first + 1
  if (length !== undefined && length !== ranged)
    throw ociError(
      'SIZE_INVALID',
      { contentLength: length, contentRange: ranged },
      { message: 'Content-Range and Content-Length differ' },
    )
  return ranged
}

/**
 * The `Content-Range` of a chunk, checked against the offset (end-5, end-6).
 * Errors: BLOB_UPLOAD_INVALID 416 where it does not start at the offset: the session stays, and the answer says where it is.
 */
export function chunkRange(request: Request, name: RepositoryName, upload: Upload): { first: number; last: number } | null {
  const header = request.headers.get('content-range')
  if (header === null) return null
  const range = parseContentRange(header)
  if (range.first !== upload.size) throw outOfOrder(name, upload)
  return range
}

/** 416 with the true offset; at offset 0 without `Range`, which cannot say "nothing". */
export function outOfOrder(name: RepositoryName, upload: Pick<Upload, 'inc' | 'size'>): Error {
  const { Range, ...headers } = uploadHeaders(name, upload.inc, upload.size)
  return ociError(
    'BLOB_UPLOAD_INVALID',
    { offset: upload.size },
    {
      status: 416,
      message: 'the chunk does not start where the upload is, or another request works on it',
      headers: upload.size > 0 ? { ...headers, Range: Range as string } : headers,
    },
  )
}
