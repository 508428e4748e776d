import type { Exchange } from '../context.ts'
import { ociError } from '../oci/errors.ts'
import type { Credentialed } from './authenticate.ts'
import { hashSecret } from './secrets.ts'

export const sessionMs = 12 * 3_600_000

/** Over HTTPS the name itself binds the cookie to this host, this path and to Secure; plain HTTP, on loopback, cannot have that. */
export const sessionCookieName = (origin: string): string => (origin.startsWith('https:') ? '__Host-mcr_session' : 'mcr_session')

/** The header that sets, or with an empty secret takes away, the session's cookie. */
export function sessionCookie(origin: string, secret: string): string {
  const secure = origin.startsWith('https:') ? '; Secure' : ''
  const age = secret === '' ? 0 : sessionMs / 1000
  return `${sessionCookieName(origin)}=${secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age=${age}${secure}`
}

/** The session's secret of a request, or undefined. */
export function sessionOf(request: Credentialed, exchange: Exchange): string | undefined {
  return cookie(request.headers.get('cookie'), sessionCookieName(exchange.origin))
}

/**
 * What changes something must prove that a page of ours sent it: the Origin is ours, and `X-CSRF-Token` is the session's.
 * Errors: DENIED where that proof is missing.
 */
export async function requirePage(request: Credentialed, exchange: Exchange, secret: string): Promise<void> {
  if (request.method === 'GET' || request.method === 'HEAD') return
  const ours =
    request.headers.get('origin') === exchange.origin && request.headers.get('x-csrf-token') === (await csrfToken(secret))
  if (!ours) throw ociError('DENIED', undefined, { message: 'the request does not prove that a page of this registry sent it' })
}

/** What a page of a session must send with each change. Who does not have the cookie cannot make it. */
export async function csrfToken(secret: string): Promise<string> {
  return await hashSecret(`csrf ${secret}`)
}

/** One cookie's value, or undefined. */
export function cookie(header: string | null, name: string): string | undefined {
  for (const part of (header ?? '').split(';')) {
    const at = part.indexOf('=')
    if (at > 0 && part.slice(0, at).trim() === name) return part.slice(at + 1).trim()
  }
  return undefined
}
