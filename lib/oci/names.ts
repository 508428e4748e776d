import { type Digest, parseDigest } from './digest.ts'
import { ociError } from './errors.ts'

export type RepositoryName = string & { readonly __brand: 'RepositoryName' }
export type Tag = string & { readonly __brand: 'Tag' }
/** An upload's id, which becomes the incarnation of the blob it brings: a UUID, never used twice. */
export type UploadId = string & { readonly __brand: 'UploadId' }
export type Reference = { readonly kind: 'tag'; readonly tag: Tag } | { readonly kind: 'digest'; readonly digest: Digest }

const component = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*'
const namePattern = new RegExp(`^${component}(?:/${component})*$`)
const tagPattern = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/
const uploadPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const fallbackPattern = /^sha(256-[a-f0-9]{64}|512-[a-f0-9]{64}([a-f0-9]{64})?)(\.(sig|att|sbom))?$/

/** Errors: NAME_INVALID.  Source: distribution-spec, "Pulling manifests"; the length is checked before the pattern. */
export function parseRepositoryName(text: string, maxLength = 255): RepositoryName {
  if (text.length > maxLength)
    throw ociError('NAME_INVALID', { name: `${text.slice(0, 64)}…`, expected: `at most ${maxLength} characters` })
  if (!namePattern.test(text))
    throw ociError('NAME_INVALID', {
      name: text,
      expected: 'lower-case letters and digits, parted by one of . _ __ - within and / between components',
    })
  return text as RepositoryName
}

/** Errors: MANIFEST_INVALID.  Source: distribution-spec, "Pulling manifests". */
export function parseTag(text: string): Tag {
  if (text.length > 128 || !tagPattern.test(text))
    throw ociError(
      'MANIFEST_INVALID',
      { tag: text.slice(0, 140), expected: 'at most 128 of letters, digits, _ . -, not beginning with . or -' },
      { message: 'invalid tag' },
    )
  return text as Tag
}

/** A tag, or where there is a colon a digest. Errors: MANIFEST_INVALID, DIGEST_INVALID. */
export function parseReference(text: string): Reference {
  return text.includes(':') ? { kind: 'digest', digest: parseDigest(text) } : { kind: 'tag', tag: parseTag(text) }
}

/** Errors: BLOB_UPLOAD_UNKNOWN: what is no id of ours names no upload. */
export function parseUploadId(text: string): UploadId {
  if (text.length !== 36 || !uploadPattern.test(text)) throw ociError('BLOB_UPLOAD_UNKNOWN', { upload: text.slice(0, 64) })
  return text as UploadId
}

/** Tags by which clients without a referrers API keep signatures; they are rewritten again and again.  Source: "Referrers Tag Schema". */
export function isFallbackTag(tag: Tag): boolean {
  return fallbackPattern.test(tag)
}
