import { isBlobStoreError } from '../blobs/errors.ts'
import type { Base, Exchange } from '../context.ts'
import { isMetadataError } from '../metadata/errors.ts'
import { isOciError, type OciError, ociError } from '../oci/errors.ts'

/**
 * The one place where a failure gets a status. Shape: `{"errors":[{code,message,detail}]}` as `application/json`.
 * What is not a refusal is logged with its cause and answered as 500 UNKNOWN without it.
 */
export function errorResponse(error: unknown, ctx: Base, exchange: Exchange): Response {
  const refusal = refusalOf(error, ctx, exchange)
  const errors = refusal.errors ?? [{ code: refusal.code, message: refusal.message, detail: refusal.detail }]
  const body = JSON.stringify({ errors })
  return new Response(body, {
    status: refusal.status,
    headers: {
      'Content-Type': 'application/json',
      'Content-Length': String(new TextEncoder().encode(body).byteLength),
      'Docker-Distribution-Api-Version': 'registry/2.0',
      'Cache-Control': 'no-store',
      ...refusal.headers,
    },
  })
}

/** What went wrong, in the words of the one table; counted, kept for the log, and a denial for the journal. */
export function refusalOf(error: unknown, ctx: Pick<Base, 'count' | 'note'>, exchange: Exchange): OciError {
  const refusal = isOciError(error) ? error : translate(error)
  const limit = isOciError(error) ? undefined : limits[(error as { code?: string }).code as keyof typeof limits]
  if (limit) ctx.count('limits_reached_total', { limit })
  if (refusal.status >= 500) exchange.cause = limit ? (error as Error).message : error
  exchange.errorCode = refusal.code
  ctx.count('errors_total', { code: refusal.code })
  // J1: every 403, whoever said it.
  if (refusal.code === 'DENIED') {
    const { repository = exchange.repository, tag } = (refusal.detail ?? {}) as { repository?: string; tag?: string }
    const { principal = 'anonymous', address, action = '', ruleId } = exchange
    const detail = { action, ...(ruleId === undefined ? {} : { rule: ruleId }) }
    ctx.note({ type: 'denied', actor: principal, address, repository, tag, detail })
  }
  return refusal
}

/** The original's shape of a failure, `{"error": "…"}`, with the code beside it. */
export function adminErrorResponse(error: unknown, ctx: Base, exchange: Exchange): Response {
  const refusal = refusalOf(error, ctx, exchange)
  const bytes = new TextEncoder().encode(JSON.stringify({ error: refusal.message, code: refusal.code }))
  return new Response(bytes, {
    status: refusal.status,
    headers: {
      'Content-Type': 'application/json',
      'Cache-Control': 'no-store',
      ...refusal.headers,
      ...challengeOf(refusal),
      'Content-Length': String(bytes.byteLength),
    },
  })
}

/** A registry token would not help here: the challenge of /v2 is not ours. */
function challengeOf({ status }: OciError): Record<string, string> {
  return status === 401 ? { 'WWW-Authenticate': 'Bearer realm="mcr"' } : {}
}

/** Bounds that a request can meet, as they are counted. */
const limits = {
  BLOB_FULL: 'disk',
  DB_FULL: 'disk',
  DB_BUSY: 'database_lock',
  BLOB_BUSY: 'open_files',
  BLOB_SLOW: 'body_rate',
} as const

/** RFC 4918 §11.5: the server cannot store what it needs to. */
const full = (detail: string) =>
  ociError('UNAVAILABLE', detail, {
    status: 507,
    message: 'the registry is full: nothing new is taken, pulling and deleting go on',
    headers: { 'Retry-After': '60' },
  })

/** Failures of the ports, in the protocol's words. Recognised by code: classes do not survive a bundle boundary. */
function translate(error: unknown): OciError {
  if (isBlobStoreError(error)) {
    switch (error.code) {
      case 'BLOB_TOO_LARGE':
        return ociError('SIZE_INVALID', error.message, { status: 413, message: 'blob larger than this registry accepts' })
      case 'BLOB_LENGTH':
        return ociError('SIZE_INVALID', error.message)
      case 'BLOB_CUT':
        return ociError('BLOB_UPLOAD_INVALID', 'the body ended early; nothing of it was kept', { status: 400 })
      case 'BLOB_SLOW':
        return ociError('BLOB_UPLOAD_INVALID', 'the body came too slowly; nothing of it was kept', { status: 408 })
      case 'BLOB_BUSY':
        return ociError('UNAVAILABLE', 'too many requests at once', { headers: { 'Retry-After': '2' } })
      case 'BLOB_FULL':
        return full(error.message)
    }
  }
  if (isMetadataError(error)) {
    if (error.code === 'DB_BUSY') return ociError('UNAVAILABLE', 'the database is busy', { headers: { 'Retry-After': '1' } })
    if (error.code === 'DB_FULL') return full('no space for the database')
  }
  return ociError('UNKNOWN')
}
