import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import {
  createSecureServer,
  type Http2SecureServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
} from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import * as fetchApi from '@whatwg-node/fetch'
import { Headers as PonyfillHeaders, Request as PonyfillRequest, Response as PonyfillResponse } from '@whatwg-node/fetch'
import { normalizeNodeRequest } from '@whatwg-node/server'
import type { Exchange } from '../lib/context.ts'
import { checkTarget, isHost } from '../lib/http/target.ts'
import { isLoopback, networkMatcher, parseListen, plainAddress } from './addresses.ts'
import { drainBody, refuse, send } from './respond.ts'
import { currentStamp, isNameOf, type LoadedTls, loadTls, type TlsFiles } from './tls.ts'

export type Req = IncomingMessage | Http2ServerRequest
export type Res = ServerResponse | Http2ServerResponse

export interface RequestEnd {
  status: number
  bytesOut: number
  ms: number
  method: string
  target: string
  protocol: string
  userAgent: string | undefined
  /** The client left before the last byte. */
  aborted: boolean
}

export interface ServerOptions {
  /** `host:port`, or `unix:` and a path. */
  listen: string
  tls?: TlsFiles
  /** Networks whose X-Forwarded-* headers count. */
  trustedProxies: readonly string[]
  /** The registry's own address, without a trailing slash. */
  publicUrl?: string
  limits: { connections: number; connectionsPerAddress: number }
  newId: () => string
  fetch: (request: Request, exchange: Exchange) => Promise<Response>
  onRequestEnd: (exchange: Exchange, end: RequestEnd) => void
  log: (event: { level: 'info' | 'warn' | 'error'; event: string; [field: string]: unknown }) => void
}

export interface RunningServer {
  url: string
  port: number
  /** Takes no new requests, lets running ones end for up to `ms`, then closes what is left. */
  drain(ms: number): Promise<void>
}

/** Puts the ponyfill's Request, Response and Headers in place of the native ones, which cost four times as much. Before handlers load. */
export function installFetch(): void {
  Object.assign(globalThis, { Request: PonyfillRequest, Response: PonyfillResponse, Headers: PonyfillHeaders })
}

const keepAliveMs = 95_000
const headersMs = 10_000
const headerBytes = 64 * 1024

/**
 * Serves HTTP/1.1, and with a certificate HTTP/2 on the same port. Everything a client can send that the parser lets through is checked
 * here before a URL is made of it.
 * Errors: a plain Error where the address cannot be had, or where passwords would cross a network in the clear.
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const unixPath = options.listen.startsWith('unix:') ? options.listen.slice(5) : undefined
  const address = unixPath === undefined ? parseListen(options.listen) : undefined
  if (address && !options.tls && !isLoopback(address.host) && options.trustedProxies.length === 0)
    throw new Error(
      `plain HTTP on ${options.listen} would send passwords in the clear: set server.tls_cert and server.tls_key, start with --tls self-signed, or name the proxy in front in server.trusted_proxies`,
    )
  let tls = options.tls && loadTls(options.tls)
  const trusted = networkMatcher(options.trustedProxies)
  const state = { draining: false, active: 0 }
  const listener = (req: Req, res: Res) => void serve(req, res, options, () => tls, trusted, state)

  const server = tls ? secureServer(tls) : createServer({ maxHeaderSize: headerBytes, noDelay: true, requireHostHeader: false })
  server.on('request', listener as never)
  server.on('checkContinue', listener as never)
  server.on('checkExpectation', listener as never)
  server.on('clientError', (error: Error & { code?: string }, socket: Socket) => onClientError(error, socket))
  if ('requestTimeout' in server) {
    const plain = server as Server
    plain.requestTimeout = 0
    plain.headersTimeout = headersMs
    plain.keepAliveTimeout = keepAliveMs
    plain.maxConnections = options.limits.connections
    plain.maxRequestsPerSocket = 0
  }
  const sockets = countSockets(server, options)
  const sessions = new Set<ServerHttp2Session>()
  if (tls) limitSessions(server as Http2SecureServer, sessions)
  const reload = options.tls && setInterval(() => reloadTls(), 5_000).unref()

  function reloadTls(): void {
    const files = options.tls as TlsFiles
    const stamp = currentStamp(files)
    if (stamp === undefined || stamp === tls?.stamp) return
    try {
      tls = loadTls(files)
      ;(server as Http2SecureServer).setSecureContext(tls.context)
      options.log({ level: 'info', event: 'tls_reloaded', cert: files.cert })
    } catch (error) {
      if (tls) tls = { ...tls, stamp }
      options.log({
        level: 'error',
        event: 'tls_reload_failed',
        cert: files.cert,
        error: String(error),
        hint: 'the old certificate stays in use',
      })
    }
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    if (unixPath !== undefined) server.listen(unixPath, () => resolve())
    else server.listen(address?.port, address?.host, () => resolve())
  })
  const bound = server.address() as AddressInfo | string
  const port = typeof bound === 'string' ? 0 : bound.port
  const host = address
    ? address.host === '0.0.0.0'
      ? 'localhost'
      : address.host.includes(':')
        ? `[${address.host}]`
        : address.host
    : 'localhost'

  return {
    url: options.publicUrl ?? `${tls ? 'https' : 'http'}://${host}:${port}`,
    port,
    async drain(ms) {
      state.draining = true
      clearInterval(reload)
      server.close()
      for (const session of sessions) session.close()
      if ('closeIdleConnections' in server) (server as Server).closeIdleConnections()
      const deadline = Date.now() + ms
      while (state.active > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20))
      for (const session of sessions) session.destroy()
      for (const socket of sockets) socket.destroy()
    },
  }
}

function secureServer(tls: LoadedTls): Http2SecureServer {
  return createSecureServer({
    ...tls.context,
    allowHTTP1: true,
    // We refuse it ourselves, in the protocol's form.
    requireHostHeader: false,
    minVersion: 'TLSv1.2',
    maxHeaderSize: headerBytes,
    settings: { maxConcurrentStreams: 100, maxHeaderListSize: headerBytes },
    // Rapid reset: a client may cancel 200 streams in ten seconds.
    streamResetBurst: 200,
    streamResetRate: 20,
  } as never)
}

function countSockets(server: Server | Http2SecureServer, options: ServerOptions): Set<Socket> {
  const sockets = new Set<Socket>()
  const perAddress = new Map<string, number>()
  server.on('connection', (socket: Socket) => {
    const address = plainAddress(socket.remoteAddress)
    const count = (perAddress.get(address) ?? 0) + 1
    const proxied = options.trustedProxies.length > 0 || isLoopback(address)
    if (sockets.size >= options.limits.connections || (count > options.limits.connectionsPerAddress && !proxied)) {
      socket.destroy()
      return
    }
    sockets.add(socket)
    perAddress.set(address, count)
    socket.once('close', () => {
      sockets.delete(socket)
      const left = (perAddress.get(address) ?? 1) - 1
      if (left > 0) perAddress.set(address, left)
      else perAddress.delete(address)
    })
    // A connection that is reset is no news.
    socket.on('error', () => undefined)
  })
  return sockets
}

function limitSessions(server: Http2SecureServer, sessions: Set<ServerHttp2Session>): void {
  server.on('session', (session: ServerHttp2Session) => {
    sessions.add(session)
    session.setTimeout(keepAliveMs, () => session.close())
    session.on('error', () => session.destroy())
    session.once('close', () => sessions.delete(session))
  })
  server.on('sessionError', () => undefined)
  server.on('tlsClientError', () => undefined)
}

/** What Node's parser refused, in the protocol's form. */
function onClientError(error: Error & { code?: string }, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const [status, text] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'headers too large']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'headers came too slowly']
        : [400, 'not HTTP']
  const body = JSON.stringify({ errors: [{ code: 'UNSUPPORTED', message: text }] })
  socket.end(
    `HTTP/1.1 ${status} ${status === 431 ? 'Request Header Fields Too Large' : status === 408 ? 'Request Timeout' : 'Bad Request'}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
  )
}

async function serve(
  req: Req,
  res: Res,
  options: ServerOptions,
  tls: () => LoadedTls | undefined,
  trusted: (address: string) => boolean,
  state: { draining: boolean; active: number },
): Promise<void> {
  const started = performance.now()
  state.active++
  const exchange: Exchange = { id: options.newId(), address: '', origin: '', proceed: () => undefined }
  const target = req.url ?? ''
  const progress = { bytesOut: 0, finished: false }
  res.once('close', () => {
    state.active--
    const aborted = !progress.finished
    const { method = '', httpVersion } = req
    const userAgent = req.headers['user-agent']
    options.onRequestEnd(exchange, {
      status: res.statusCode,
      bytesOut: progress.bytesOut,
      ms: performance.now() - started,
      method,
      target,
      protocol: httpVersion,
      userAgent,
      aborted,
    })
  })
  res.once('error', () => undefined)
  req.on('error', () => undefined)

  const secure = tls() !== undefined
  const expects = req.headers.expect !== undefined
  let proceeded = !expects
  exchange.proceed = () => {
    if (proceeded || res.headersSent) return
    proceeded = true
    res.writeContinue()
  }
  const peer = plainAddress(req.socket.remoteAddress)
  const where = locate(req, peer, secure, options, tls(), trusted)
  exchange.address = where.address
  if ('refusal' in where) return refuse(req, res, exchange, progress, where.refusal)
  exchange.origin = where.origin
  const refusal = checkRequest(req)
  if (refusal) return refuse(req, res, exchange, progress, refusal)
  const checked = checkTarget(target)
  if ('problem' in checked)
    return refuse(req, res, exchange, progress, { status: 400, code: 'NAME_INVALID', message: checked.problem })
  req.url = checked.target

  try {
    const request = normalizeNodeRequest(req as never, fetchApi as never, res as never, true) as unknown as Request
    const response = await options.fetch(request, exchange)
    const close = state.draining || !proceeded
    send(response, req, res, progress, { secure: exchange.origin.startsWith('https:'), close })
    drainBody(req)
  } catch (error) {
    exchange.cause = error
    exchange.errorCode = 'UNKNOWN'
    refuse(req, res, exchange, progress, { status: 500, code: 'UNKNOWN', message: 'internal error' })
  }
}

const single = new Set([
  'host',
  'content-length',
  'authorization',
  'content-range',
  'range',
  'transfer-encoding',
  'content-type',
  'if-match',
  'expect',
])

/** What would be read differently by a proxy in front: repeated headers, transfer codings, unknown expectations. */
function checkRequest(req: Req): { status: number; code: string; message: string } | undefined {
  const raw = req.rawHeaders
  let seen: Set<string> | undefined
  for (let at = 0; at < raw.length; at += 2) {
    const name = (raw[at] as string).toLowerCase()
    if (!single.has(name)) continue
    seen ??= new Set()
    if (seen.has(name)) return { status: 400, code: 'UNSUPPORTED', message: `the header ${name} stands more than once` }
    seen.add(name)
  }
  const coding = req.headers['transfer-encoding']
  if (coding !== undefined && coding.toLowerCase() !== 'chunked')
    return { status: 400, code: 'UNSUPPORTED', message: 'a transfer coding other than chunked' }
  const length = req.headers['content-length']
  if (length !== undefined && !/^[0-9]{1,15}$/.test(length))
    return { status: 400, code: 'SIZE_INVALID', message: 'Content-Length is no whole number' }
  const expect = req.headers.expect
  if (expect !== undefined && expect.toLowerCase() !== '100-continue')
    return { status: 417, code: 'UNSUPPORTED', message: 'an expectation other than 100-continue' }
  return undefined
}

type Place = { address: string; origin: string } | { address: string; refusal: { status: number; code: string; message: string } }

/**
 * Where the client is and what it calls us. `Host` counts only when it is loopback, one of the certificate's names, or comes from a
 * trusted proxy; X-Forwarded-* count from trusted proxies only. Otherwise a stranger could choose where our clients send passwords.
 */
function locate(
  req: Req,
  peer: string,
  secure: boolean,
  options: ServerOptions,
  tls: LoadedTls | undefined,
  trusted: (address: string) => boolean,
): Place {
  const fromProxy = trusted(peer) || peer === 'unix'
  const forwardedFor = fromProxy ? header(req, 'x-forwarded-for') : undefined
  let address = peer
  for (const hop of forwardedFor?.split(',').reverse() ?? []) {
    address = plainAddress(hop.trim())
    if (!trusted(address)) break
  }
  const own = (req.headers[':authority'] as string | undefined) ?? req.headers.host
  const host = (fromProxy ? header(req, 'x-forwarded-host') : undefined) ?? own
  if (own === undefined || !isHost(own) || host === undefined || !isHost(host))
    return { address, refusal: { status: 400, code: 'UNSUPPORTED', message: 'the Host header is no host:port' } }
  if (options.publicUrl !== undefined) return { address, origin: options.publicUrl }
  const name = host.replace(/:[0-9]+$/, '')
  const proto = fromProxy ? header(req, 'x-forwarded-proto') : undefined
  if (!fromProxy && !isLoopback(name) && !(tls && isNameOf(tls.names, name))) {
    const message = `this registry does not know that it is called ${name}: set server.public_url to the address its clients use`
    return { address, refusal: { status: 421, code: 'UNSUPPORTED', message } }
  }
  const scheme = proto === 'https' || proto === 'http' ? proto : secure ? 'https' : 'http'
  return { address, origin: `${scheme}://${host}` }
}

function header(req: Req, name: string): string | undefined {
  const value = req.headers[name]
  return Array.isArray(value) ? value.join(',') : value
}
