import type { RepositoryName, UploadId } from '../oci/names.ts'
import { empty } from './response.ts'

/** Where an upload lives. Relative, without a query: clients append `digest=` to it, some of them naively. */
export function uploadLocation(name: RepositoryName, id: UploadId): string {
  return `/v2/${name}/blobs/uploads/${id}`
}

/** The headers by which a client knows an upload and how far it is. `size` is its offset in bytes. */
export function uploadHeaders(name: RepositoryName, id: UploadId, size: number): Record<string, string> {
  // docker reads `Range` with %d-%d and breaks on 0--1, so an empty upload says 0-0 wherever docker looks.
  return { Location: uploadLocation(name, id), Range: `0-${Math.max(size - 1, 0)}`, 'Docker-Upload-UUID': id }
}

/** 201 for a blob that is now in the repository. */
export function blobCreated(name: RepositoryName, digest: string): Response {
  return empty(201, { Location: `/v2/${name}/blobs/${digest}`, 'Docker-Content-Digest': digest })
}
