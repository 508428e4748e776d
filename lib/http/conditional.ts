/** Entity tags of a list header, each with its weakness. A `*` is the one entry `*`. */
function tags(header: string): { weak: boolean; tag: string }[] {
  return [...header.matchAll(/\*|(W\/)?("[^"]*")/g)].map((match) => ({ weak: match[1] !== undefined, tag: match[2] ?? '*' }))
}

/** Weak comparison, any entry. `etag` is what there is.  Source: RFC 9110 §13.1.2. */
export function matchesIfNoneMatch(header: string, etag: string): boolean {
  return tags(header).some(({ tag }) => tag === '*' || tag === etag)
}

/** Strong comparison, any entry; nothing matches what is not there.  Source: RFC 9110 §13.1.1. */
export function matchesIfMatch(header: string, etag: string | undefined): boolean {
  return etag !== undefined && tags(header).some(({ weak, tag }) => tag === '*' || (!weak && tag === etag))
}

/** Whether a `Range` holds beside `If-Range`: only for the same strong tag.  Source: RFC 9110 §13.1.5. */
export function ifRangeAllows(header: string | null, etag: string): boolean {
  return header === null || header.trim() === etag
}
