import { readFileSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'

/**
 * A fetch for the few addresses that an operator named: no redirects, no proxy of the environment, and where given a certificate
 * authority of its own, in PEM.
 */
export function createOutgoingFetch(caCert?: string): (url: string, init?: RequestInit) => Promise<Response> {
  const ca = caCert === undefined ? undefined : readFileSync(caCert)
  return async (url, init = {}) => {
    const target = new URL(url)
    const body =
      init.body === undefined || init.body === null ? undefined : Buffer.from(await new Response(init.body).arrayBuffer())
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      const request = (target.protocol === 'https:' ? process.getBuiltinModule('node:https').request : httpRequest)(
        target,
        {
          method: init.method ?? 'GET',
          ca,
          signal: init.signal ?? undefined,
          headers: { ...Object.fromEntries(new Headers(init.headers)), ...(body ? { 'content-length': body.length } : {}) },
        },
        resolve,
      )
      request.once('error', reject)
      request.end(body)
    })
    const status = answer.statusCode ?? 502
    const empty = status === 204 || status === 304
    if (empty) answer.resume()
    return new Response(empty ? null : (Readable.toWeb(answer) as ReadableStream), {
      status,
      headers: Object.entries(answer.headers).flatMap(([name, value]) =>
        typeof value === 'string' ? [[name, value] as [string, string]] : [],
      ),
    })
  }
}
