import { ociError } from '../oci/errors.ts'

export interface Page {
  /** Entries asked for, clamped; 0 is an empty page without a link. */
  limit: number
  /** Entries strictly after this one, in byte order. */
  after: string
}

/**
 * `n` and `last` of a listing (end-8b). `n` is clamped to `max`, never refused for being large.
 * Errors: UNSUPPORTED 400 where `n` is no whole number ≥ 0 or stands twice; `last` over 1,024 characters.
 */
export function parsePage(query: URLSearchParams, byDefault: number, max: number): Page {
  const numbers = query.getAll('n')
  const text = numbers[0]
  if (numbers.length > 1 || (text !== undefined && !/^[0-9]{1,20}$/.test(text)))
    throw ociError(
      'UNSUPPORTED',
      { n: text?.slice(0, 64), expected: 'one whole number, 0 or more' },
      { status: 400, message: 'invalid page size' },
    )
  const after = query.get('last') ?? ''
  if (after.length > 1024)
    throw ociError('UNSUPPORTED', { last: 'longer than any name' }, { status: 400, message: 'invalid page start' })
  return { limit: text === undefined ? byDefault : Math.min(Number(text), max), after }
}

/** The value of `Link` to the next page: relative, so that it holds behind any proxy (RFC 8288). */
export function nextLink(path: string, params: Record<string, string | number | undefined>): string {
  const query = Object.entries(params)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(value as string)}`)
    .join('&')
  return `<${path}?${query}>; rel="next"`
}
