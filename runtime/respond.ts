import type { ServerResponse } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import type { Readable } from 'node:stream'
import type { Exchange } from '../lib/context.ts'
import { type Accel, accelPath } from './accel.ts'
import type { ReleasingBody } from './blobs-fs-read.ts'
import type { Req, Res } from './server.ts'

/**
 * What is taken of a body nobody reads: more than the buffers of two kernels hold between them, so that a client which has handed over all
 * of its body, and may send the next request on the connection, does not find it reset.
 */
const drainBytes = 16 * 1024 * 1024
const drainMs = 10_000
/** Closed at once the connection would be reset under an answer that is still on its way: so long the client has to read it. */
const lingerMs = 1_000

/** The least bytes a second that a client must take of a body, or it is cut. */
export interface Pace {
  minBytesPerSecond: number
  onSlow: () => void
}

/** What is slower than its pace for less than this is a pause. */
const pauseMs = 60_000

interface Progress {
  bytesOut: number
  finished: boolean
}

const always = [
  'X-Content-Type-Options',
  'nosniff',
  'Referrer-Policy',
  'no-referrer',
  'Cross-Origin-Resource-Policy',
  'same-origin',
]
const hsts = ['Strict-Transport-Security', 'max-age=31536000']

/** Fields of the ponyfill's Response that save a copy: its header object as it was given, and a body that is all here. */
interface PonyfillInternals {
  headers: Headers & { headersInit?: Record<string, string>; _map?: unknown }
  _buffer?: Uint8Array
  bodyType?: string
  bodyInit?: unknown
}

/** Writes a Response to the socket: one writeHead, one end where the body is all here, else the stream with backpressure. */
export function send(
  response: Response,
  req: Req,
  res: Res,
  progress: Progress,
  options: { secure: boolean; close: boolean; accel: Accel | undefined; pace: Pace },
): void {
  const stream = () => (response.body as unknown as { readable?: Readable } | null)?.readable
  if (res.destroyed || res.writableEnded) {
    // Nobody reads it any more; what it holds open must not stay open.
    stream()?.destroy()
    return
  }
  const inner = response as unknown as PonyfillInternals
  const head = flatHeaders(inner)
  head.push(...always)
  if (options.secure) head.push(...hsts)
  if (req.httpVersionMajor === 1 && options.close) head.push('Connection', 'close')
  const elsewhere = options.accel && accelPath(options.accel, req, response.status, stream())
  if (elsewhere !== undefined) {
    stream()?.destroy()
    handOver(res, head, elsewhere, response.status === 206, progress)
    return
  }
  ;(res as { writeHead(status: number, headers: string[]): void }).writeHead(response.status, head)
  res.once('finish', () => {
    progress.finished = true
  })
  if (req.method === 'HEAD' || response.status === 204 || response.status === 304) {
    res.end()
    return
  }
  const whole = inner._buffer ?? (inner.bodyType === 'String' ? (inner.bodyInit as string) : undefined)
  if (whole !== undefined) {
    progress.bytesOut = whole.length
    res.end(whole)
    return
  }
  const body = stream()
  if (body) {
    // What comes bit by bit, and perhaps not for a while, begins now.
    if (!head.some((name) => name.toLowerCase() === 'content-length')) (res as ServerResponse).flushHeaders()
    pump(body, res, progress, options.pace)
  } else res.end()
}

/** The proxy in front sends the file: it gets every header but those of a body, which it makes itself. */
function handOver(res: Res, head: readonly string[], path: string, partial: boolean, progress: Progress): void {
  // nginx says Accept-Ranges itself where it sends the whole file, and only there.
  const own = partial ? /^content-(length|range)$/i : /^(content-(length|range)|accept-ranges)$/i
  const kept: string[] = []
  for (let at = 0; at < head.length; at += 2)
    if (!own.test(head[at] as string)) kept.push(head[at] as string, head[at + 1] as string)
  // Without a length of 0 nginx would close the connection to us.
  kept.push('X-Accel-Redirect', path, 'Content-Length', '0')
  ;(res as { writeHead(status: number, headers: string[]): void }).writeHead(200, kept)
  res.once('finish', () => {
    progress.finished = true
  })
  res.end()
}

/** The header object as it was given, if nothing changed it; hop-by-hop names hang an HTTP/2 response and never pass. */
function flatHeaders({ headers }: PonyfillInternals): string[] {
  const head: string[] = []
  const init = headers.headersInit
  if (init && !headers._map && !Array.isArray(init) && typeof (init as { get?: unknown }).get !== 'function')
    for (const name in init) head.push(name, init[name] as string)
  else for (const [name, value] of headers) head.push(name, value)
  return head
}

function pump(stream: ReleasingBody, res: Res, progress: Progress, { minBytesPerSecond, onSlow }: Pace): void {
  const out = res as NodeJS.WritableStream & { destroy(error?: Error): void; destroyed: boolean }
  const { release } = stream
  stream.on('data', (chunk: Uint8Array) => {
    progress.bytesOut += chunk.length
    const slow = () => {
      onSlow()
      out.destroy()
    }
    const late =
      minBytesPerSecond > 0 ? setTimeout(slow, Math.max(pauseMs, (chunk.length / minBytesPerSecond) * 1000)).unref() : undefined
    // Called when the chunk has gone to the socket, or with an error when it never will.
    const sent = (error?: Error | null) => {
      clearTimeout(late)
      if (!error) release?.(chunk)
    }
    if (!out.write(chunk, sent)) stream.pause()
  })
  out.on('drain', () => stream.resume())
  stream.once('end', () => out.end())
  // A body that cannot be completed is cut, never ended cleanly short.
  stream.once('error', (error) => out.destroy(error))
  out.once('close', () => stream.destroy())
}

const bodyLeft = (req: Req) =>
  !req.readableEnded && (req.headers['transfer-encoding'] !== undefined || Number(req.headers['content-length'] ?? 0) > 0)

/**
 * Takes what is left of a body nobody read, within bounds, so that the client reads our answer instead of a reset connection. `Connection:
 * close` is not announced for it: Node would close at once, with bytes unread, and that is the reset.
 */
export function drainBody(req: Req): void {
  if (req.method === 'GET' || req.method === 'HEAD' || req.readableEnded || req.destroyed || !bodyLeft(req)) return
  const end = () => {
    clearTimeout(timer)
    if (req.httpVersionMajor === 2) (req as Http2ServerRequest).stream.close()
    else req.socket?.destroy()
  }
  let timer = setTimeout(end, Number(req.headers['content-length'] ?? 0) > drainBytes ? lingerMs : drainMs)
  let drained = 0
  req.on('data', (chunk: Uint8Array) => {
    drained += chunk.length
    if (drained <= drainBytes) return
    req.pause()
    clearTimeout(timer)
    timer = setTimeout(end, lingerMs)
  })
  req.once('end', () => clearTimeout(timer))
  req.once('close', () => clearTimeout(timer))
  req.resume()
}

/** A refusal of the server itself, in the form of the protocol it refuses. */
export function refuse(
  req: Req,
  res: Res,
  exchange: Exchange,
  progress: Progress,
  refusal: { status: number; code: string; message: string; retryAfter?: number },
): void {
  exchange.errorCode = refusal.code
  if (res.headersSent) {
    res.destroy()
    return
  }
  const { code, message } = refusal
  // The administration has a shape of its own.
  const shape = req.url?.startsWith('/v1/') ? { error: message, code } : { errors: [{ code, message }] }
  const body = Buffer.from(JSON.stringify(shape))
  const head = [
    'Content-Type',
    'application/json',
    'Content-Length',
    String(body.length),
    'Docker-Distribution-Api-Version',
    'registry/2.0',
    ...always,
  ]
  if (refusal.retryAfter !== undefined) head.push('Retry-After', String(refusal.retryAfter))
  // What follows on the connection is in doubt after a request that made no sense.
  if (req.httpVersionMajor === 1 && !bodyLeft(req)) head.push('Connection', 'close')
  ;(res as { writeHead(status: number, headers: string[]): void }).writeHead(refusal.status, head)
  res.once('finish', () => {
    progress.finished = true
  })
  progress.bytesOut = body.length
  if (req.method === 'HEAD') res.end()
  else res.end(body)
  drainBody(req)
}
