import { type Digest, isDigestText } from './digest.ts'
import { ociError } from './errors.ts'
import { bareType, dockerManifest, isForeignLayer, manifestTypes, ociArtifact, ociIndex, ociManifest } from './media-types.ts'

export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  readonly size: number
  readonly urls?: readonly string[]
}

/** One descriptor of a manifest. `required`: it must be in the repository before the manifest may be stored. */
export interface ManifestReference {
  readonly digest: Digest
  readonly kind: 'config' | 'layer' | 'child' | 'subject'
  readonly required: boolean
}

export interface Manifest {
  readonly mediaType: string
  /** What a referrers list shows: the manifest's own, for images else the config's type. */
  readonly artifactType?: string
  readonly subject?: Descriptor
  readonly annotations?: Readonly<Record<string, string>>
  readonly references: readonly ManifestReference[]
}

export interface ManifestLimits {
  jsonDepth: number
  jsonTokens: number
  layers: number
  children: number
}

/**
 * What a manifest's bytes say. The bytes are what is stored; this is only read.
 * Errors: MANIFEST_INVALID with a detail that says what is wrong.
 * Source: image-spec; distribution-spec end-7; unknown fields, types and artifact types are accepted as they come.
 */
export function parseManifest(bytes: Uint8Array, contentType: string | null, limits: ManifestLimits): Manifest {
  const body = parseObject(bytes, limits)
  const mediaType = mediaTypeOf(body, bareType(contentType))
  const kind = manifestTypes[mediaType]
  if (kind !== 'artifact' && body.schemaVersion !== 2) throw invalid('schemaVersion is not 2')
  if (body.manifests !== undefined && (body.layers !== undefined || body.config !== undefined))
    throw invalid('has manifests beside layers or config: it would be read differently by different clients')

  const subject = body.subject === undefined ? undefined : descriptor(body.subject, 'subject')
  // Signing tools put a referrer before its layers; a manifest with a subject may come early.
  const strict = subject === undefined
  const references: ManifestReference[] = []
  const add = (entry: Descriptor, type: ManifestReference['kind'], required: boolean) =>
    references.push({ digest: entry.digest, kind: type, required: required && strict })

  let config: Descriptor | undefined
  if (kind === 'image') {
    config = descriptor(body.config, 'config')
    add(config, 'config', true)
    for (const layer of descriptors(body.layers, 'layers', limits.layers)) add(layer, 'layer', !isForeignLayer(layer))
  } else if (kind === 'index') {
    for (const child of descriptors(body.manifests, 'manifests', limits.children)) add(child, 'child', true)
  } else {
    for (const blob of body.blobs === undefined ? [] : descriptors(body.blobs, 'blobs', limits.layers))
      add(blob, 'layer', !isForeignLayer(blob))
  }
  if (subject) references.push({ digest: subject.digest, kind: 'subject', required: false })

  const own = typeof body.artifactType === 'string' && body.artifactType !== '' ? body.artifactType : undefined
  return { mediaType, artifactType: own ?? config?.mediaType, subject, annotations: annotationsOf(body.annotations), references }
}

function invalid(reason: string) {
  return ociError('MANIFEST_INVALID', { reason }, { message: `manifest invalid: ${reason}` })
}

type Json = Record<string, unknown>

function parseObject(bytes: Uint8Array, limits: ManifestLimits): Json {
  checkStructure(bytes, limits)
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
  } catch (error) {
    throw invalid(error instanceof SyntaxError ? 'not JSON' : 'not UTF-8')
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw invalid('not a JSON object')
  return value as Json
}

/** Counts brackets and values before anything is built of them: ten megabytes of `[` would hold the process for seconds (S-22). */
function checkStructure(bytes: Uint8Array, limits: ManifestLimits): void {
  let depth = 0
  let tokens = 0
  let inString = false
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (inString) {
      if (byte === 0x5c) at++
      else if (byte === 0x22) inString = false
      continue
    }
    if (byte === 0x22) {
      inString = true
      tokens++
    } else if (byte === 0x7b || byte === 0x5b) {
      tokens++
      if (++depth > limits.jsonDepth) throw invalid(`nested deeper than ${limits.jsonDepth}`)
    } else if (byte === 0x7d || byte === 0x5d) depth--
    else if (byte === 0x2c) tokens++
    if (tokens > limits.jsonTokens) throw invalid(`more than ${limits.jsonTokens} values`)
  }
}

/** The type a manifest is stored under. A body that names another than its `Content-Type` is refused; without one the body decides. */
function mediaTypeOf(body: Json, contentType: string): string {
  const inside = body.mediaType
  if (inside !== undefined && typeof inside !== 'string') throw invalid('mediaType is no text')
  const generic = contentType === '' || contentType === 'application/json' || contentType === 'application/octet-stream'
  if (inside !== undefined && !generic && inside !== contentType)
    throw invalid(`mediaType ${inside.slice(0, 128)} differs from Content-Type ${contentType.slice(0, 128)}`)
  const type = inside ?? (generic ? detect(body) : contentType)
  if (!Object.hasOwn(manifestTypes, type))
    throw invalid(`type ${type.slice(0, 128)} is none of ${Object.keys(manifestTypes).join(', ')}`)
  return type
}

function detect(body: Json): string {
  if (Array.isArray(body.manifests) || body.manifests === null) return ociIndex
  if (body.config !== undefined && (Array.isArray(body.layers) || body.layers === null)) {
    const config = (body.config as Json | null)?.mediaType
    return config === 'application/vnd.docker.container.image.v1+json' ? dockerManifest : ociManifest
  }
  if (Array.isArray(body.blobs)) return ociArtifact
  throw invalid('no Content-Type and no mediaType, and neither an image nor an index by its fields')
}

function descriptors(value: unknown, field: string, most: number): Descriptor[] {
  // Go writes an empty list as null.
  if (value === null) return []
  if (!Array.isArray(value)) throw invalid(`${field} is no list`)
  if (value.length > most) throw invalid(`${field} has more than ${most} entries`)
  return value.map((entry, index) => descriptor(entry, `${field}[${index}]`))
}

function descriptor(value: unknown, field: string): Descriptor {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw invalid(`${field} is no descriptor`)
  const { mediaType, digest, size, urls } = value as Json
  if (!isDigestText(digest)) throw invalid(`${field}.digest is no digest`)
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
    throw invalid(`${field}.size is no whole number of bytes`)
  if (mediaType !== undefined && typeof mediaType !== 'string') throw invalid(`${field}.mediaType is no text`)
  return {
    mediaType: (mediaType as string | undefined) ?? '',
    digest: digest as Digest,
    size,
    urls: Array.isArray(urls) ? urls.filter((url) => typeof url === 'string') : undefined,
  }
}

function annotationsOf(value: unknown): Record<string, string> | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'object' || Array.isArray(value)) throw invalid('annotations is no object')
  for (const [key, text] of Object.entries(value))
    if (typeof text !== 'string') throw invalid(`annotation ${key.slice(0, 64)} is no text`)
  return value as Record<string, string>
}
