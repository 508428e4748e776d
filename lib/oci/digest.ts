import { ociError } from './errors.ts'

/** Canonical text of a content digest: `sha256:` and 64, or `sha512:` and 128 lower-case hexadecimal digits. */
export type Digest = string & { readonly __brand: 'Digest' }
export type Algorithm = 'sha256' | 'sha512'

const hexLength: Record<Algorithm, number> = { sha256: 64, sha512: 128 }
const webCryptoName: Record<Algorithm, string> = { sha256: 'SHA-256', sha512: 'SHA-512' }
const shape = /^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$/

/** Errors: DIGEST_INVALID.  Source: image-spec, "Digests". */
export function parseDigest(text: string): Digest {
  if (text.length > 200 || !shape.test(text))
    throw ociError('DIGEST_INVALID', {
      digest: text.slice(0, 200),
      expected: 'sha256 or sha512, a colon, lower-case hexadecimal digits',
    })
  return text as Digest
}

/** Whether a text is a digest of the registered grammar, of whatever algorithm. */
export function isDigestText(text: unknown): text is string {
  return (
    typeof text === 'string' &&
    text.length <= 512 &&
    (shape.test(text) || /^(?!sha256:|sha512:)[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$/.test(text))
  )
}

/** Errors: DIGEST_INVALID for an algorithm this registry does not have. */
export function parseAlgorithm(text: string): Algorithm {
  if (!Object.hasOwn(hexLength, text))
    throw ociError('DIGEST_INVALID', { algorithm: text.slice(0, 64), supported: Object.keys(hexLength) })
  return text as Algorithm
}

export const algorithmOf = (digest: Digest): Algorithm => digest.slice(0, 6) as Algorithm
export const encodedOf = (digest: Digest): string => digest.slice(7)

/** The digest of bytes that are all here: manifests. Streams are hashed by the blob store. */
export async function digestOf(bytes: Uint8Array<ArrayBuffer>, algorithm: Algorithm): Promise<Digest> {
  const hash = new Uint8Array(await crypto.subtle.digest(webCryptoName[algorithm], bytes))
  let hex = ''
  for (const byte of hash) hex += (byte < 16 ? '0' : '') + byte.toString(16)
  return `${algorithm}:${hex}` as Digest
}
