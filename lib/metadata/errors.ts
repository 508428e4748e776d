import type { MetadataError, MetadataErrorCode } from './sql.ts'

/** Whether a failure came from the metadata port; by code, since classes do not survive a bundle boundary. */
export function isMetadataError(error: unknown): error is MetadataError {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && code.startsWith('DB_')
}

/** What a full disk keeps from being written, where the answer does not hang on it: undefined then. A read must not fail for want of space. */
export async function unlessFull<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (isMetadataError(error) && error.code === 'DB_FULL') return undefined
    throw error
  }
}

export function metadataError(code: MetadataErrorCode, message: string, cause?: unknown): MetadataError {
  return Object.assign(new Error(message, { cause }), { code })
}
