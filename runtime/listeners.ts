import { chmodSync, lstatSync, renameSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { Http2SecureServer, Http2Server, ServerHttp2Session } from 'node:http2'
import { type AddressInfo, BoundSocket, isIP, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { isLoopback, networkMatcher, parseListen, plainAddress } from './addresses.ts'
import type { Alarm } from './alarms.ts'
import type { Connections } from './drain.ts'
import type { ServerOptions } from './server.ts'
import { refuseTaken } from './sockets.ts'
import type { LoadedTls } from './tls.ts'

const keepAliveMs = 95_000
const headersMs = 10_000
const headerBytes = 64 * 1024
const stalledMs = 60_000

export type AnyServer = Server | Http2SecureServer | Http2Server
/** What a listener serves: everything, everything but the administration, only that, or only gRPC. */
export type Part = 'all' | 'registry' | 'admin' | 'grpc'

/** A server for a listener; with a certificate HTTP/1.1 and HTTP/2 on one port. */
export function makeServer(tls: LoadedTls | undefined, part: Part): AnyServer {
  if (tls) return secureServer(tls)
  // Plain Node cannot tell HTTP/1.1 and HTTP/2 apart on one port, and gRPC needs HTTP/2.
  if (part === 'grpc') return process.getBuiltinModule('node:http2').createServer(http2Options as never)
  const server = createServer({
    maxHeaderSize: headerBytes,
    noDelay: true,
    requireHostHeader: false,
    connectionsCheckingInterval: headersMs / 2,
  })
  server.requestTimeout = 0
  server.headersTimeout = headersMs
  server.keepAliveTimeout = keepAliveMs
  server.maxRequestsPerSocket = 0
  watchReaders(server)
  return server
}

const http2Options = {
  maxHeaderSize: headerBytes,
  settings: { maxConcurrentStreams: 100, maxHeaderListSize: headerBytes },
  // Rapid reset: a client may cancel 200 streams in ten seconds.
  streamResetBurst: 200,
  streamResetRate: 20,
}

function secureServer(tls: LoadedTls): Http2SecureServer {
  const server = process.getBuiltinModule('node:http2').createSecureServer({
    ...tls.context,
    ...http2Options,
    allowHTTP1: true,
    // We refuse it ourselves, in the protocol's form.
    requireHostHeader: false,
    minVersion: 'TLSv1.2',
    handshakeTimeout: headersMs,
    connectionsCheckingInterval: headersMs / 2,
  } as never)
  // For HTTP/1.1 over TLS; Node's own would end an upload after five minutes, and a connection after five seconds.
  Object.assign(server, { requestTimeout: 0, headersTimeout: headersMs, keepAliveTimeout: keepAliveMs })
  watchReaders(server)
  return server
}

/**
 * Listens on `host:port`, or on `unix:` and a path: a socket of mode 0660, which says who may be the proxy in front. One that a dead process
 * left is replaced, one that still answers is not.
 * Shape: the port, 0 for a socket; and what takes the socket's file away.  Errors: a plain Error that says what to change.
 */
export async function listenOn(server: AnyServer, listen: string): Promise<{ port: number; leave(): void }> {
  const heard = (start: (done: () => void) => void) =>
    new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      start(resolve)
    })
  if (!listen.startsWith('unix:')) {
    const { host, port } = parseListen(listen)
    // To look a name up Node compiles a pattern that takes 10 ms of a start; an address needs none of that.
    await heard((done) => {
      if (isIP(host)) server.listen(new BoundSocket({ host, port }), done)
      else server.listen(port, host, done)
    }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EADDRINUSE') throw error
      throw new Error(`another program listens on ${listen}: end it, or name another address`, { cause: error })
    })
    return { port: (server.address() as AddressInfo).port, leave: () => undefined }
  }
  const path = listen.slice(5)
  await refuseTaken(path)
  // Under another name first: nobody meets the socket before it listens, with the rights it is to have.
  const temporary = `${path}.${process.pid}`
  rmSync(temporary, { force: true })
  await heard((done) => server.listen(temporary, done))
  chmodSync(temporary, 0o660)
  const { ino } = lstatSync(temporary)
  renameSync(temporary, path)
  return {
    port: 0,
    leave() {
      if (lstatSync(path, { throwIfNoEntry: false })?.ino === ino) rmSync(path, { force: true })
    },
  }
}

/** A client that takes nothing of what waits for it, not a byte in a minute, is given up; one that waits for us is not. */
function watchReaders(server: Server | Http2SecureServer): void {
  server.setTimeout(stalledMs, (socket?: Socket) => {
    if (socket && socket.writableLength > 0) socket.destroy()
  })
}

/** Connections beyond the bounds that are still told so; any more are closed without a word. */
const turnedAwayMost = 16
const turnedAwayMs = 5_000

/** Keeps connections within their limits, and at hand for the end. Those in `turnedAway` get no more than a 503. */
export function countSockets(
  server: AnyServer,
  options: Pick<ServerOptions, 'limits' | 'trustedProxies' | 'onLimit'>,
  { sockets, uses, turnedAway }: Connections,
): void {
  const use = (socket: Socket) => {
    uses.set(socket, { active: 0, since: Date.now() })
    socket.once('close', () => uses.delete(socket))
  }
  const secure = 'setSecureContext' in server
  const trusted = networkMatcher(options.trustedProxies)
  // Over TLS requests come on the socket that decrypts; those of HTTP/2 are its session's.
  if (secure)
    server.on('secureConnection', (socket: TLSSocket) => {
      if (socket.alpnProtocol !== 'h2') use(socket)
    })
  // What accept(2) fails with, such as no descriptors, ends no process: the next connection may be taken.
  server.once('listening', () => server.on('error', (error: Error) => options.onLimit('accept', { error: error.message })))
  const perAddress = new Map<string, number>()
  server.on('connection', (socket: Socket) => {
    const address = plainAddress(socket.remoteAddress)
    const count = (perAddress.get(address) ?? 0) + 1
    const proxied = trusted(address) || isLoopback(address) || address === 'unix'
    // A connection that is reset is no news.
    socket.on('error', () => undefined)
    const full = sockets.size - turnedAway.size >= options.limits.connections
    if (full || (count > options.limits.connectionsPerAddress && !proxied)) {
      options.onLimit(full ? 'connections' : 'connections_per_address', { address })
      if (secure || turnedAway.size >= turnedAwayMost) {
        socket.destroy()
        return
      }
      turnedAway.add(socket)
      const end = setTimeout(() => socket.destroy(), turnedAwayMs)
      socket.once('close', () => {
        clearTimeout(end)
        turnedAway.delete(socket)
      })
    }
    sockets.add(socket)
    if (!secure) use(socket)
    perAddress.set(address, count)
    socket.once('close', () => {
      sockets.delete(socket)
      const left = (perAddress.get(address) ?? 1) - 1
      if (left > 0) perAddress.set(address, left)
      else perAddress.delete(address)
    })
  })
}

/** What nghttp2 ends a session for: frames against the rules or too many resets, frames beyond its bounds, headers that go on and on. */
const floodErrors = new Set([-505, -904, -905])

/** HTTP/2 sessions end after the same idle time as connections do. */
export function limitSessions(server: AnyServer, sessions: Set<ServerHttp2Session>, onLimit: Alarm): void {
  server.on('session', (session: ServerHttp2Session) => {
    const address = plainAddress(session.socket?.remoteAddress)
    sessions.add(session)
    session.setTimeout(keepAliveMs, () => session.close())
    session.on('error', (error: NodeJS.ErrnoException) => {
      if (floodErrors.has(error.errno ?? 0)) onLimit('http2', { address, error: error.message })
      session.destroy()
    })
    session.once('close', () => sessions.delete(session))
  })
  server.on('sessionError', () => undefined)
  server.on('tlsClientError', () => undefined)
}

const headerLimits: Readonly<Record<string, string>> = {
  HPE_HEADER_OVERFLOW: 'header_size',
  ERR_HTTP_REQUEST_TIMEOUT: 'header_time',
}

/** What Node's parser refused, in the protocol's form. */
export function onClientError(error: Error & { code?: string }, socket: Socket, onLimit: Alarm): void {
  const limit = headerLimits[error.code ?? '']
  if (limit) onLimit(limit, { address: plainAddress(socket.remoteAddress) })
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
