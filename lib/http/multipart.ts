/**
 * A multipart/byteranges body: one part a range, in the order asked, never joined, as partial pulls of zstd:chunked layers need it.
 * Shape: the pieces (literal bytes, and ranges of the stored bytes) and the headers that go with them.  Source: RFC 9110 §14.6.
 */
export function multipart(
  ranges: readonly { first: number; last: number }[],
  size: number,
  boundary: string,
): { pieces: (Uint8Array | { first: number; last: number })[]; headers: Record<string, string> } {
  const encode = new TextEncoder()
  const pieces: (Uint8Array | { first: number; last: number })[] = []
  let length = 0
  const literal = (text: string) => {
    const bytes = encode.encode(text)
    length += bytes.byteLength
    pieces.push(bytes)
  }
  ranges.forEach((range, index) => {
    const lead = index === 0 ? '' : '\r\n'
    literal(
      `${lead}--${boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ${range.first}-${range.last}/${size}\r\n\r\n`,
    )
    length += range.last - range.first + 1
    pieces.push(range)
  })
  literal(`\r\n--${boundary}--\r\n`)
  return { pieces, headers: { 'Content-Type': `multipart/byteranges; boundary=${boundary}`, 'Content-Length': String(length) } }
}
