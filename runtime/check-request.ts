import type { Part } from './listeners.ts'
import type { Req } from './server.ts'

interface Refusal {
  status: number
  code: string
  message: string
}

/** The administration's own listener has nothing else, and nothing else has it (H10). */
export function refusePart(part: Part, target: string): Refusal | undefined {
  const admin = /^\/(v1\/|mcr\.v1\.|auth\/|metrics(\?|$))/.test(target)
  const health = /^\/(livez|readyz)(\?|$)/.test(target)
  const fits =
    part === 'all' || (part === 'registry' ? !admin : part === 'admin' ? admin || health : target.startsWith('/mcr.v1.'))
  return fits ? undefined : { status: 404, code: 'UNSUPPORTED', message: 'no such route on this listener' }
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
export function checkRequest(req: Req): Refusal | undefined {
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

/** Whether a request is gRPC (and not gRPC-Web, which fetch can serve). */
export const isGrpc = (req: Req): boolean =>
  req.httpVersionMajor === 2 && /^application\/grpc(\+|;|$)/.test(req.headers['content-type'] ?? '')
