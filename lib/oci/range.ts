import { ociError } from './errors.ts'

/**
 * `Content-Range` of a chunk: `first-last`, both inclusive; `bytes first-last/total` is taken too.
 * Errors: BLOB_UPLOAD_INVALID.  Source: distribution-spec, "Pushing a blob in chunks".
 */
export function parseContentRange(text: string): { first: number; last: number } {
  const match = /^(?:bytes[ =])?([0-9]{1,16})-([0-9]{1,16})(?:\/(?:[0-9]{1,16}|\*))?$/.exec(text)
  const [first, last] = [Number(match?.[1]), Number(match?.[2])]
  if (!match || first > last || !Number.isSafeInteger(last))
    throw ociError(
      'BLOB_UPLOAD_INVALID',
      { contentRange: text.slice(0, 64), expected: 'first-last, in bytes' },
      { message: 'invalid Content-Range' },
    )
  return { first, last }
}

export type RangeAnswer =
  | { kind: 'whole' }
  | { kind: 'single'; first: number; last: number }
  | { kind: 'multi'; ranges: { first: number; last: number }[] }
  | { kind: 'unsatisfiable' }
  | { kind: 'too-many' }

/**
 * What a `Range` header asks of `size` bytes. Several ranges stay in the order asked and are never joined. A malformed or reversed range
 * is unsatisfiable: RFC 9110 §14.2 would let us send everything, clients that resume would take it for the rest.
 */
export function parseRange(header: string | null, size: number, maxRanges = 1024): RangeAnswer {
  if (header === null || size === 0) return { kind: 'whole' }
  const unit = /^\s*([a-zA-Z0-9!#$%&'*+.^_`|~-]+)\s*=/.exec(header)
  if (unit?.[1]?.toLowerCase() !== 'bytes') return { kind: 'whole' }
  const specs = header.slice(unit[0].length).split(',')
  if (specs.length > maxRanges) return { kind: 'too-many' }
  const ranges: { first: number; last: number }[] = []
  for (const spec of specs) {
    const match = /^\s*([0-9]{0,16})-([0-9]{0,16})\s*$/.exec(spec)
    if (!match || (match[1] === '' && match[2] === '')) return { kind: 'unsatisfiable' }
    const range =
      match[1] === ''
        ? suffix(Number(match[2]), size)
        : between(Number(match[1]), match[2] === '' ? size - 1 : Number(match[2]), size)
    if (range === 'reversed') return { kind: 'unsatisfiable' }
    if (range) ranges.push(range)
  }
  const [only] = ranges
  if (!only) return { kind: 'unsatisfiable' }
  return ranges.length === 1 ? { kind: 'single', ...only } : { kind: 'multi', ranges }
}

function suffix(length: number, size: number) {
  return length === 0 ? undefined : { first: Math.max(size - length, 0), last: size - 1 }
}

function between(first: number, last: number, size: number) {
  if (last < first && first < size) return 'reversed'
  return first >= size ? undefined : { first, last: Math.min(last, size - 1) }
}
