export const ociManifest = 'application/vnd.oci.image.manifest.v1+json'
export const ociIndex = 'application/vnd.oci.image.index.v1+json'
export const ociArtifact = 'application/vnd.oci.artifact.manifest.v1+json'
export const dockerManifest = 'application/vnd.docker.distribution.manifest.v2+json'
export const dockerList = 'application/vnd.docker.distribution.manifest.list.v2+json'

/** Types a manifest may have, each with the shape its body must have. Docker schema 1 is not among them. */
export const manifestTypes: Readonly<Record<string, 'image' | 'index' | 'artifact'>> = {
  [ociManifest]: 'image',
  [dockerManifest]: 'image',
  [ociIndex]: 'index',
  [dockerList]: 'index',
  [ociArtifact]: 'artifact',
}

const foreign =
  /^application\/vnd\.(oci\.image\.layer\.nondistributable\.v1\.tar(\+gzip|\+zstd)?|docker\.image\.rootfs\.foreign\.diff\.tar(\.gzip)?)$/

/** A layer that lies elsewhere by intent: it is not asked for, and never fetched. */
export function isForeignLayer(descriptor: { mediaType?: string; urls?: readonly string[] }): boolean {
  return foreign.test(descriptor.mediaType ?? '') || (descriptor.urls !== undefined && descriptor.urls.length > 0)
}

/** A media type without its parameters, lower case. */
export function bareType(contentType: string | null): string {
  const end = contentType?.indexOf(';') ?? -1
  return (end < 0 ? (contentType ?? '') : (contentType as string).slice(0, end)).trim().toLowerCase()
}
