import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Http2SecureServer, Http2ServerRequest, Http2ServerResponse } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import * as fetchApi from '@whatwg-node/fetch'
import { Request as PonyfillRequest, Response as PonyfillResponse } from '@whatwg-node/fetch'
import { normalizeNodeRequest } from '@whatwg-node/server'
import type { Exchange } from '../lib/context.ts'
import { checkTarget, isHost } from '../lib/http/target.ts'
import type { Accel } from './accel.ts'
import { isLoopback, networkMatcher, parseListen, plainAddress } from './addresses.ts'
import type { Alarm } from './alarms.ts'
import { checkRequest, isGrpc, refusePart } from './check-request.ts'
import { type Connections, drainServers } from './drain.ts'
import { type AnyServer, countSockets, limitSessions, listenOn, makeServer, onClientError, type Part } from './listeners.ts'
import { drainBody, refuse, send } from './respond.ts'
import type { InheritedSocket } from './sockets.ts'
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
  /** Listening sockets that another process holds: they take the place of the addresses they are named for. */
  inherited?: readonly InheritedSocket[]
  /** A port of its own for gRPC, which plain HTTP/1.1 cannot share; the same forms. */
  grpcListen?: string
  /** A listener of its own for the administration, which then is nowhere else. */
  adminListen?: string
  tls?: TlsFiles
  /** Networks whose X-Forwarded-* headers count. */
  trustedProxies: readonly string[]
  /** Who sends blobs in our place: only for requests that came through a trusted proxy. */
  accel?: Accel
  /** The registry's own address, without a trailing slash. */
  publicUrl?: string
  limits: { connections: number; connectionsPerAddress: number; minBodyRate: number }
  /** A bound of the server was met. */
  onLimit: Alarm
  newId: () => string
  fetch: (request: Request, exchange: Exchange) => Promise<Response>
  /** Answers gRPC by itself; absent where this process does not mount it. */
  grpc?: (req: Req, res: Res, exchange: Exchange) => void
  onRequestEnd: (exchange: Exchange, end: RequestEnd) => void
  log: (event: { level: 'info' | 'warn' | 'error'; event: string; [field: string]: unknown }) => void
}

export interface RunningServer {
  url: string
  port: number
  grpcPort?: number
  adminPort?: number
  /** Takes no new connections, lets running requests end for up to `ms`, then closes what is left. */
  drain(ms: number): Promise<void>
}

/**
 * Puts the ponyfill's Request and Response in place of the native ones, which cost four times as much. Before handlers load. Not its
 * Headers: made of `{ 'A': '0' }` and then set as `a`, they hold both values, which breaks the trailers of gRPC.
 */
export function installFetch(): void {
  Object.assign(globalThis, { Request: PonyfillRequest, Response: PonyfillResponse })
}

/**
 * Serves HTTP/1.1, and with a certificate HTTP/2 on the same port. Everything a client can send that the parser lets through is checked
 * here before a URL is made of it.
 * Errors: a plain Error where the address cannot be had, or where passwords would cross a network in the clear.
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  for (const listen of [options.listen, options.grpcListen, options.adminListen])
    if (listen !== undefined) checkClear(listen, options)
  let tls = options.tls && loadTls(options.tls)
  const trusted = networkMatcher(options.trustedProxies)
  const state: State = { draining: false, active: 0, uses: new Map(), turnedAway: new Set() }
  const connections: Connections = { sockets: new Set(), uses: state.uses, sessions: new Set(), turnedAway: state.turnedAway }
  const servers: AnyServer[] = []
  const leaving: (() => void)[] = []

  async function open(listen: string | InheritedSocket, part: Part): Promise<number> {
    const server = makeServer(tls, part)
    servers.push(server)
    const listener = (req: Req, res: Res) => void serve(req, res, options, () => tls, trusted, state, part)
    server.on('request', listener as never)
    server.on('checkContinue', listener as never)
    server.on('checkExpectation', listener as never)
    server.on('clientError', (error: Error & { code?: string }, socket: Socket) => onClientError(error, socket))
    countSockets(server, options, connections)
    limitSessions(server, connections.sessions)
    if (typeof listen === 'string') {
      const { port, leave } = await listenOn(server, listen)
      leaving.push(leave)
      return port
    }
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ fd: listen.fd }, () => resolve())
    })
    const bound = server.address() as AddressInfo | string | null
    if (typeof bound === 'string' || bound === null) return 0
    checkClear(`${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`, options)
    return bound.port
  }

  /** Opens the sockets that are handed to us for a listener, else its address. Shape: the first one's port. */
  async function openAll(part: 'registry' | 'grpc' | 'admin', listen: string | undefined, as: Part): Promise<number | undefined> {
    const given = handed(part)
    const ports: number[] = []
    for (const place of given.length > 0 ? given : listen === undefined ? [] : [listen]) ports.push(await open(place, as))
    return ports[0]
  }
  const handed = (part: string) => (options.inherited ?? []).filter(({ name }) => listenerOf(name) === part)

  const apart = options.adminListen === undefined && handed('admin').length === 0 ? 'all' : 'registry'
  const port = (await openAll('registry', options.listen, apart)) as number
  const grpcPort = options.grpc && (await openAll('grpc', options.grpcListen, 'grpc'))
  const adminPort = await openAll('admin', options.adminListen, 'admin')

  const reload = options.tls && setInterval(() => reloadTls(), 5_000).unref()
  function reloadTls(): void {
    const files = options.tls as TlsFiles
    const stamp = currentStamp(files)
    if (stamp === undefined || stamp === tls?.stamp) return
    try {
      tls = loadTls(files)
      for (const server of servers) (server as Http2SecureServer).setSecureContext(tls.context)
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

  return {
    url:
      options.publicUrl ??
      (options.listen.startsWith('unix:') ? options.listen : `${tls ? 'https' : 'http'}://${shownHost(options.listen)}:${port}`),
    port,
    grpcPort,
    adminPort,
    async drain(ms) {
      state.draining = true
      clearInterval(reload)
      for (const leave of leaving) leave()
      // Where the address lives on without this process, its clients come back at once and must not be cut off.
      const shared =
        (options.inherited ?? []).length > 0 || options.trustedProxies.length > 0 || options.listen.startsWith('unix:')
      await drainServers(servers, connections, () => state.active, ms, shared ? lingerMs : 0)
    },
  }
}

/** How long nothing must have been asked on a connection before it is closed under its client. */
const lingerMs = 1_000

/** Which listener a handed socket is: those that are named so, else the registry's. */
function listenerOf(name: string): 'registry' | 'grpc' | 'admin' {
  return name === 'grpc' || name === 'admin' ? name : 'registry'
}

interface State {
  draining: boolean
  active: number
  uses: Connections['uses']
  turnedAway: Connections['turnedAway']
}

/** Errors: a plain Error where passwords would cross a network in the clear. */
function checkClear(listen: string, options: ServerOptions): void {
  if (options.tls || listen.startsWith('unix:') || options.trustedProxies.length > 0) return
  if (!isLoopback(parseListen(listen).host))
    throw new Error(
      `plain HTTP on ${listen} would send passwords in the clear: set server.tls_cert and server.tls_key, start with --tls self-signed, or name the proxy in front in server.trusted_proxies`,
    )
}

function shownHost(listen: string): string {
  const { host } = parseListen(listen)
  return host === '0.0.0.0' ? 'localhost' : host.includes(':') ? `[${host}]` : host
}

async function serve(
  req: Req,
  res: Res,
  options: ServerOptions,
  tls: () => LoadedTls | undefined,
  trusted: (address: string) => boolean,
  state: State,
  part: Part,
): Promise<void> {
  const started = performance.now()
  state.active++
  const use = req.httpVersionMajor === 1 ? state.uses.get(req.socket) : undefined
  if (use) use.active++
  const exchange: Exchange = { id: options.newId(), address: '', origin: '', proceed: () => undefined }
  const target = req.url ?? ''
  const progress = { bytesOut: 0, finished: false }
  res.once('close', () => {
    state.active--
    if (use) {
      use.active--
      use.since = Date.now()
    }
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
  if (state.turnedAway.has(req.socket))
    return refuse(req, res, exchange, progress, {
      status: 503,
      code: 'UNAVAILABLE',
      message: 'too many connections',
      retryAfter: 2,
    })
  const refusal = checkRequest(req)
  if (refusal) return refuse(req, res, exchange, progress, refusal)
  const checked = checkTarget(target)
  if ('problem' in checked)
    return refuse(req, res, exchange, progress, { status: 400, code: 'NAME_INVALID', message: checked.problem })
  req.url = checked.target
  const misplaced = refusePart(part, checked.target)
  if (misplaced) return refuse(req, res, exchange, progress, misplaced)
  if (isGrpc(req) && options.grpc && part !== 'registry') {
    res.once('finish', () => {
      progress.finished = true
    })
    options.grpc(req, res, exchange)
    return
  }

  try {
    const request = normalizeNodeRequest(req as never, fetchApi as never, res as never, true) as unknown as Request
    const response = await options.fetch(request, exchange)
    const close = state.draining || !proceeded
    const pace = {
      minBytesPerSecond: options.limits.minBodyRate,
      onSlow: () => options.onLimit('reader_rate', { address: exchange.address }),
    }
    send(response, req, res, progress, {
      secure: exchange.origin.startsWith('https:'),
      close,
      pace,
      accel: isProxy(peer, trusted) ? options.accel : undefined,
    })
    drainBody(req)
  } catch (error) {
    exchange.cause = error
    exchange.errorCode = 'UNKNOWN'
    refuse(req, res, exchange, progress, { status: 500, code: 'UNKNOWN', message: 'internal error' })
  }
}

/** Whose word on where a request comes from counts: networks that were named, and whoever may reach our socket. */
const isProxy = (peer: string, trusted: (address: string) => boolean) => peer === 'unix' || trusted(peer)

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
  const fromProxy = isProxy(peer, trusted)
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
