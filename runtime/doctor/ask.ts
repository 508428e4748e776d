import { type IncomingMessage, request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import type { TLSSocket } from 'node:tls'
import type { Find } from './finding.ts'

/** The registry as its clients reach it. */
export interface Public {
  /** `https://registry.example.com`, without a slash at its end */
  url: URL
  /** A certificate authority in PEM that is trusted as well. */
  ca?: string
  /** The value of `Authorization` that may push and pull in `repository`, and perhaps read the journal. */
  authorization?: string
  repository: string
  /** Largest piece of the growing upload, bytes. */
  uploadBytes: number
  /** How long a body may pause before the doctor counts it as cut, ms. */
  patienceMs: number
}

export interface Answer {
  status: number
  headers: IncomingMessage['headers']
  body: Buffer
  ms: number
}

export interface Ask {
  method?: string
  headers?: Record<string, string>
  /** A body in pieces, each after a pause; `open` announces this many bytes, sends what there is and never ends. */
  body?: { pieces: readonly Uint8Array[]; pauseMs?: number; open?: number }
  timeoutMs?: number
  /** `first`: enough is the first piece of the answer's body. */
  until?: 'first'
}

/** A connection that ended without a whole answer. */
export interface Lost extends NodeJS.ErrnoException {
  /** Such as `GET /v2/ with range` */
  asked: string
}

const timeoutMs = 15_000
const bodyMost = 64 * 1024 * 1024

/**
 * One request on a connection of its own, the target as it is written. Certificates are judged elsewhere: here what they protect is still looked at,
 * but the login of `to` is given only where the certificate is trusted.
 * Errors: `Lost`, with the code `ETIMEDOUT` after the time, else with that of the socket.
 */
export async function ask(
  to: Public,
  target: string,
  { method = 'GET', headers = {}, body, ...more }: Ask = {},
): Promise<Answer> {
  const started = performance.now()
  const request = to.url.protocol === 'https:' ? requestHttps : requestHttp
  const length = body?.open ?? body?.pieces.reduce((sum, piece) => sum + piece.byteLength, 0)
  return await new Promise((resolve, reject) => {
    const req = request({
      host: to.url.hostname.replace(/^\[|\]$/g, ''),
      port: to.url.port || undefined,
      path: target,
      method,
      agent: false,
      ca: to.ca,
      // A login goes to nobody but the registry.
      rejectUnauthorized: to.authorization !== undefined && headers.authorization === to.authorization,
      headers: { host: to.url.host, ...(length === undefined ? {} : { 'content-length': String(length) }), ...headers },
    } as never)
    const timer = setTimeout(() => {
      req.destroy(Object.assign(new Error(`no answer in ${more.timeoutMs ?? timeoutMs} ms`), { code: 'ETIMEDOUT' }))
    }, more.timeoutMs ?? timeoutMs)
    const end = (act: () => void) => {
      clearTimeout(timer)
      act()
      req.destroy()
    }
    const lost = (error: Error) => {
      const names = Object.keys(headers).join(', ')
      end(() => reject(Object.assign(error, { asked: `${method} ${target}${names && ` with ${names}`}` })))
    }
    req.on('error', lost)
    req.on('response', (res) => {
      const chunks: Buffer[] = []
      let size = 0
      const answer = () => ({
        status: res.statusCode as number,
        headers: res.headers,
        body: Buffer.concat(chunks),
        ms: performance.now() - started,
      })
      res.on('data', (chunk: Buffer) => {
        chunks.push(chunk)
        size += chunk.length
        if (more.until === 'first') end(() => resolve(answer()))
        if (size > bodyMost) lost(new Error('the answer has no end'))
      })
      res.on('end', () => end(() => resolve(answer())))
      res.on('error', lost)
    })
    void send(req, body)
  })
}

/** `ask` for checks to which no answer is as good as a wrong one: `status` then says what happened. */
export async function askAnyhow(
  to: Public,
  target: string,
  more: Ask,
): Promise<Omit<Answer, 'status'> & { status: number | string }> {
  return await ask(to, target, more).catch((error: Lost) => ({
    status: `nothing: ${error.message}`,
    headers: {},
    body: Buffer.alloc(0),
    ms: 0,
  }))
}

/** Makes a connection that a check lost a finding, so that the other checks go on. Errors: all others. */
export async function orLost(check: Promise<void>, find: Find): Promise<void> {
  await check.catch((error: Lost) => {
    if (error.asked === undefined) throw error
    find({
      what: 'connection',
      severity: 'wrong',
      says: `${error.asked} is cut off without an answer (${error.message})`,
      cures: {
        nginx: 'its error_log says why; nothing between clients and nginx may end connections for what is asked',
        caddy: 'its log says why; nothing between clients and Caddy may end connections for what is asked',
        mcr: 'where its log has no line of the request, something in front ended it: a firewall, a balancer, a filter',
      },
    })
  })
}

async function send(req: ReturnType<typeof requestHttp>, body: Ask['body']): Promise<void> {
  for (const [index, piece] of (body?.pieces ?? []).entries()) {
    if (index > 0 && body?.pauseMs) await new Promise((resolve) => setTimeout(resolve, body.pauseMs))
    if (req.destroyed) return
    await new Promise((resolve) => req.write(piece, resolve))
  }
  if (body?.open === undefined) req.end()
}

/** What is wrong with the certificate for a client that trusts the usual authorities, and when it ends. Errors: `Lost`. */
export async function certificateOf(to: Public): Promise<{ problem?: string; validTo: number }> {
  return await new Promise((resolve, reject) => {
    const req = requestHttps({
      host: to.url.hostname.replace(/^\[|\]$/g, ''),
      port: to.url.port || undefined,
      path: '/v2/',
      agent: false,
      ca: to.ca,
      rejectUnauthorized: false,
    })
    req.setTimeout(timeoutMs, () => req.destroy(new Error('no answer')))
    req.on('error', (error) => reject(Object.assign(error, { asked: 'GET /v2/ for the certificate' })))
    req.on('response', (res) => {
      const socket = res.socket as TLSSocket
      const { valid_to: end } = socket.getPeerCertificate()
      const problem = socket.authorized ? undefined : String(socket.authorizationError)
      req.destroy()
      resolve({ problem, validTo: Date.parse(end) })
    })
    req.end()
  })
}

/** What keeps `Content-Type: application/json` and the shape of a refusal. */
export function isRefusal({ headers, body }: Pick<Answer, 'headers' | 'body'>): boolean {
  if (headers['content-type'] !== 'application/json') return false
  try {
    const value = JSON.parse(body.toString()) as { errors?: unknown[]; error?: unknown }
    return Array.isArray(value.errors) || value.error !== undefined
  } catch {
    return false
  }
}
