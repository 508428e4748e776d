import type { BlobStoreError, BlobStoreErrorCode } from './blob-store.ts'

/** Whether a failure came from the blob port; by code, since classes do not survive a bundle boundary. */
export function isBlobStoreError(error: unknown): error is BlobStoreError {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && code.startsWith('BLOB_') && !code.startsWith('BLOB_UPLOAD') && code !== 'BLOB_UNKNOWN'
}

export function blobStoreError(code: BlobStoreErrorCode, message: string, cause?: unknown): BlobStoreError {
  return Object.assign(new Error(message, { cause }), { code })
}
