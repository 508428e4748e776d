import * as fetchApi from '@whatwg-node/fetch'
import { normalizeNodeRequest } from '@whatwg-node/server'
import type { Exchange } from '../lib/context.ts'
import { checkTarget, isHost } from '../lib/http/target.ts'
import { isLoopback, plainAddress } from './addresses.ts'
import { checkRequest, isGrpc, refusePart } from './check-request.ts'
import type { Connections } from './drain.ts'
import type { Part } from './listeners.ts'
import { drainBody, refuse, send } from './respond.ts'
import type { Req, Res, ServerOptions } from './server.ts'
import { isNameOf, type LoadedTls } from './tls.ts'

/** What the requests of one server share. */
export interface State {
  draining: boolean
  active: number
  uses: Connections['uses']
  turnedAway: Connections['turnedAway']
}

/**
 * One request: counted, checked before a URL is made of it, given to the handlers, answered. Never rejects.
 */
export async function serve(
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
