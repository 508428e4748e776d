import { ociError } from '../oci/errors.ts'

/**
 * The whole of a small request body.
 * Errors: `code` with status 413 as soon as more than `limit` bytes are announced or have arrived.
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
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      size += value.byteLength
      if (size > limit) throw tooLarge()
      chunks.push(value)
    }
  }
  const body = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    body.set(chunk, at)
    at += chunk.byteLength
  }
  return body
}
