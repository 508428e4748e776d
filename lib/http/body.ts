import { ociError } from '../oci/errors.ts'

/** A small body must be here within this time; large ones are watched by their rate. */
const bodyMs = 60_000

/**
 * The whole of a small request body.
 * Errors: `code` with status 413 as soon as more than `limit` bytes are announced or have arrived, 408 when it takes longer than a minute,
 * 400 when the client leaves.
 */
export async function readBody(
  request: Request,
  limit: number,
  code: 'MANIFEST_INVALID' | 'SIZE_INVALID',
): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = () => ociError(code, `the body is larger than ${limit} bytes`, { status: 413 })
  const announced = Number(request.headers.get('content-length') ?? 0)
  if (announced > limit) throw tooLarge()
  const chunks: Uint8Array[] = []
  let size = 0
  const reader = request.body?.getReader()
  if (reader) {
    let late = false
    const timer = setTimeout(() => {
      late = true
      reader.cancel().catch(() => undefined)
    }, bodyMs)
    try {
      for (;;) {
        const { done, value } = await reader.read()
        if (done) break
        size += value.byteLength
        if (size > limit) throw tooLarge()
        chunks.push(value)
      }
    } catch (error) {
      if (size > limit) throw error
      throw ociError(code, 'the body ended early', { status: 400 })
    } finally {
      clearTimeout(timer)
    }
    if (late) throw ociError(code, 'the body came too slowly', { status: 408 })
  }
  if (announced > 0 && size < announced) throw ociError(code, 'the body ended early', { status: 400 })
  const body = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    body.set(chunk, at)
    at += chunk.byteLength
  }
  return body
}
