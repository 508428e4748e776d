/**
 * Every failure with a protocol name: its status and what it says when nobody says it better.
 * Source: distribution-spec, "Error Codes"; UNKNOWN and UNAVAILABLE are for 5xx, where the specification names none; the last five are
 * of the administration, which the specification does not know.
 */
export const ociErrors = {
  BLOB_UNKNOWN: { status: 404, message: 'blob unknown to repository' },
  BLOB_UPLOAD_INVALID: { status: 400, message: 'blob upload invalid' },
  BLOB_UPLOAD_UNKNOWN: { status: 404, message: 'blob upload unknown to registry' },
  DENIED: { status: 403, message: 'requested access to the resource is denied' },
  DIGEST_INVALID: { status: 400, message: 'provided digest did not match uploaded content, or is no digest' },
  MANIFEST_BLOB_UNKNOWN: { status: 400, message: 'manifest references a manifest or blob unknown to registry' },
  MANIFEST_INVALID: { status: 400, message: 'manifest invalid' },
  MANIFEST_UNKNOWN: { status: 404, message: 'manifest unknown to registry' },
  NAME_INVALID: { status: 400, message: 'invalid repository name' },
  NAME_UNKNOWN: { status: 404, message: 'repository name not known to registry' },
  SIZE_INVALID: { status: 400, message: 'provided length did not match content length' },
  TOOMANYREQUESTS: { status: 429, message: 'too many requests' },
  UNAUTHORIZED: { status: 401, message: 'authentication required' },
  UNSUPPORTED: { status: 405, message: 'the operation is unsupported' },
  UNAVAILABLE: { status: 503, message: 'service unavailable, try again' },
  UNKNOWN: { status: 500, message: 'internal error; the log has the cause under the request id' },
  INVALID: { status: 400, message: 'invalid request' },
  NOT_FOUND: { status: 404, message: 'there is no such thing' },
  CONFLICT: { status: 409, message: 'it is not as the request takes it to be' },
  GONE: { status: 410, message: 'it was here and is gone' },
  PRECONDITION: { status: 412, message: 'the condition does not hold' },
} as const satisfies Record<string, { status: number; message: string }>

export type OciErrorCode = keyof typeof ociErrors

/** A failure with a protocol name. Recognised by its code: classes do not survive a bundle boundary. */
export interface OciError extends Error {
  readonly code: OciErrorCode
  readonly status: number
  readonly detail?: unknown
  readonly headers?: Readonly<Record<string, string>>
  /** Entries of the body where there is more than one. */
  readonly errors?: readonly { code: OciErrorCode; message: string; detail?: unknown }[]
}

/** Makes a failure to throw. `options` override what the table says of the code. */
export function ociError(
  code: OciErrorCode,
  detail?: unknown,
  options: { status?: number; message?: string; headers?: Record<string, string>; errors?: OciError['errors'] } = {},
): OciError {
  const { status, message } = ociErrors[code]
  const error = new Error(options.message ?? message)
  return Object.assign(error, {
    code,
    status: options.status ?? status,
    ...(detail === undefined ? {} : { detail }),
    ...(options.headers ? { headers: options.headers } : {}),
    ...(options.errors ? { errors: options.errors } : {}),
  })
}

/** Whether something thrown is a failure of this table. */
export function isOciError(error: unknown): error is OciError {
  const { code, status } = (error ?? {}) as { code?: unknown; status?: unknown }
  return typeof code === 'string' && Object.hasOwn(ociErrors, code) && typeof status === 'number'
}
