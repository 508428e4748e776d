import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Http2SecureServer, Http2ServerRequest, Http2ServerResponse } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import { Request as PonyfillRequest, Response as PonyfillResponse } from '@whatwg-node/fetch'
import type { Exchange } from '../lib/context.ts'
import type { Accel } from './accel.ts'
import { isLoopback, networkMatcher, parseListen } from './addresses.ts'
import type { Alarm } from './alarms.ts'
import { type Connections, drainServers } from './drain.ts'
import { type AnyServer, countSockets, limitSessions, listenOn, makeServer, onClientError, type Part } from './listeners.ts'
import { type State, serve } from './serve-request.ts'
import { type InheritedSocket, listenerOf } from './sockets.ts'
import { currentStamp, loadTls, type TlsFiles } from './tls.ts'

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
  /** For a worker: its parent holds every address, so it opens none, whatever the configuration says by now. */
  opensNone?: boolean
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
  const handed = (part: string) => (options.inherited ?? []).filter(({ name }) => listenerOf(name) === part)
  const own = (part: string, listen: string | undefined) => (options.opensNone || handed(part).length > 0 ? undefined : listen)
  const listens = {
    registry: own('registry', options.listen),
    grpc: own('grpc', options.grpcListen),
    admin: own('admin', options.adminListen),
  }
  for (const listen of Object.values(listens)) if (listen !== undefined) checkClear(listen, options)
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
    server.on('clientError', (error: Error & { code?: string }, socket: Socket) => onClientError(error, socket, options.onLimit))
    countSockets(server, options, connections)
    limitSessions(server, connections.sessions, options.onLimit)
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
  async function openAll(part: keyof typeof listens, as: Part): Promise<number | undefined> {
    const ports: number[] = []
    for (const place of [...handed(part), ...(listens[part] === undefined ? [] : [listens[part]])])
      ports.push(await open(place, as))
    return ports[0]
  }

  const apart = listens.admin === undefined && handed('admin').length === 0 ? 'all' : 'registry'
  const port = (await openAll('registry', apart)) as number
  const grpcPort = options.grpc && (await openAll('grpc', 'grpc'))
  const adminPort = await openAll('admin', 'admin')

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
