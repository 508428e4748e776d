import type { Readable } from 'node:stream'
import type { ReleasingBody } from './blobs-fs-read.ts'
import type { Req } from './server.ts'

/** Headers of a blob's answer that a proxy would not keep when it sends the file itself: its configuration puts them back. */
export const accelHeaders = [
  'Content-Security-Policy',
  'Cross-Origin-Resource-Policy',
  'Docker-Content-Digest',
  'Docker-Distribution-Api-Version',
  'ETag',
  'Referrer-Policy',
  'Strict-Transport-Security',
  'X-Content-Type-Options',
] as const

/** Blobs are sent by the proxy in front: what it is, and the internal path under which it has the blob directory. */
export interface Accel {
  proxy: 'nginx' | 'caddy'
  prefix: string
  /** The blob directory here. */
  directory: string
}

/**
 * The path for `X-Accel-Redirect`, where the proxy in front answers with this body exactly what we would: a whole file, or one range of it
 * in a form that nobody reads differently. Conditions are ours: a proxy judges them by the file's time, which says nothing here.
 * Shape: the path; undefined where we send the body ourselves.
 */
export function accelPath(accel: Accel, req: Req, status: number, body: Readable | undefined): string | undefined {
  const file = (body as ReleasingBody | undefined)?.file
  if (!file || req.method !== 'GET' || !file.startsWith(`${accel.directory}/`)) return undefined
  const { headers } = req
  for (const name of ['if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since', 'if-range'])
    if (headers[name] !== undefined) return undefined
  const simple =
    headers.range === undefined
      ? status === 200
      : status === 206 && /^bytes=([0-9]{1,15}-[0-9]{0,15}|-[0-9]{1,15})$/.test(headers.range)
  return simple ? `${accel.prefix}${file.slice(accel.directory.length + 1)}` : undefined
}
