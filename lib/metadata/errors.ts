import type { MetadataError, MetadataErrorCode } from './sql.ts'

/** Whether a failure came from the metadata port; by code, since classes do not survive a bundle boundary. */
export function isMetadataError(error: unknown): error is MetadataError {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && code.startsWith('DB_')
}

export function metadataError(code: MetadataErrorCode, message: string, cause?: unknown): MetadataError {
  return Object.assign(new Error(message, { cause }), { code })
}
