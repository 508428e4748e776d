import type { Digest } from '../oci/digest.ts'
import { type OciError, ociError } from '../oci/errors.ts'
import { matchesIfMatch, matchesIfNoneMatch } from './conditional.ts'

/**
 * Whether `If-Match` and `If-None-Match` hold for what a tag names now (undefined: nothing). With them a PUT or DELETE is a
 * compare-and-swap.  Source: RFC 9110 §13.1.1, §13.1.2.
 */
export function preconditionHolds(request: Request, current: Digest | undefined): boolean {
  const etag = current === undefined ? undefined : `"${current}"`
  const ifMatch = request.headers.get('if-match')
  if (ifMatch !== null && !matchesIfMatch(ifMatch, etag)) return false
  const ifNoneMatch = request.headers.get('if-none-match')
  return ifNoneMatch === null || etag === undefined || !matchesIfNoneMatch(ifNoneMatch, etag)
}

/** 412 with what is there now, so that the client can decide anew without asking. */
export function preconditionFailed(current: Digest | undefined): OciError {
  return ociError(
    'DENIED',
    { current: current ?? null },
    {
      status: 412,
      message: current ? `the tag is at ${current}` : 'the tag does not exist',
      headers: current ? { ETag: `"${current}"`, 'Docker-Content-Digest': current } : {},
    },
  )
}
