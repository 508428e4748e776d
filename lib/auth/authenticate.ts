import type { Base, Exchange, Ports } from '../context.ts'
import { type OciError, ociError } from '../oci/errors.ts'
import { type Account, findCredential, findPasswordLogin, type PasswordLogin } from './accounts.ts'
import { checkLoginLimit, countFailedLogin } from './login-limit.ts'
import { anonymous, type Caller } from './principal.ts'

type Needs = Pick<Base, 'now' | 'remember' | 'count' | 'challenge'> & Pick<Ports, 'metadata' | 'passwords' | 'tokens'>

/** A password that was good is good again for this long, without hashing: docker logs in for every scope. */
const goodLoginMs = 60_000
const rememberedLogins = 1_000

/** A login by name and password: what a token is made from. */
export interface Login {
  account: Account
  credentialId: number
  credentialVersion: number
}

export interface Authentication {
  authenticate: Base['authenticate']
  /** Errors: UNAUTHORIZED, the same for an unknown name as for a wrong password; TOOMANYREQUESTS. */
  login(name: string, password: string, exchange: Exchange): Promise<Login>
}

const nobody: Caller = { principal: anonymous }

/**
 * Who calls: a registry token, or a name and password on any route. Credentials that are sent and wrong are always 401 and never fall
 * back to anonymous. `onLogin` hears of every good login by password. State, roles and version of the account are those of this moment, whatever a token was made from.
 */
export function createAuthentication(ctx: Needs, onLogin: (name: string) => void = () => undefined): Authentication {
  const goodLogins = new Map<string, { version: number; until: number }>()
  const memoryKey = crypto.subtle.generateKey({ name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
  let decoy: Promise<string> | undefined

  async function bearer(token: string, exchange: Exchange): Promise<Caller> {
    const claims = await ctx.tokens.verify(token)
    if (!claims) throw refused(ctx, exchange, 'invalid_token', 'the token is invalid or expired')
    if (claims.cid === 0) return { principal: anonymous, access: claims.access }
    const credential = await ctx.remember(`credential ${claims.cid}`, () => findCredential(ctx.metadata.read, claims.cid))
    if (
      !credential ||
      credential.account.disabled ||
      credential.version !== claims.cver ||
      (credential.expiresAt ?? Infinity) <= ctx.now()
    )
      throw refused(ctx, exchange, 'invalid_token', 'the token was revoked')
    return { principal: credential.account, access: claims.access }
  }

  async function login(name: string, password: string, exchange: Exchange): Promise<Login> {
    await checkLoginLimit(ctx, name, exchange.address)
    const found = await ctx.remember(`login ${name}`, () => findPasswordLogin(ctx.metadata.read, name))
    const good = await passwordIsGood(found, name, password, exchange)
    if (good && found && !found.account.disabled) {
      ctx.count('logins_total', { result: 'ok' })
      onLogin(name)
      return found
    }
    ctx.count('logins_total', { result: 'refused' })
    await countFailedLogin(ctx, name, exchange.address)
    throw refused(ctx, exchange, undefined, 'wrong name or password')
  }

  async function passwordIsGood(
    found: PasswordLogin | undefined,
    name: string,
    password: string,
    exchange: Exchange,
  ): Promise<boolean> {
    const mac = await crypto.subtle.sign('HMAC', await memoryKey, new TextEncoder().encode(`${name}\0${password}`))
    const key = String.fromCharCode(...new Uint8Array(mac))
    const known = goodLogins.get(key)
    if (found && known && known.version === found.credentialVersion && known.until > ctx.now()) return true
    // An unknown name costs what a known one does: its absence must not be measurable.
    decoy ??= ctx.passwords.hash('a password that nobody has')
    let good: boolean
    try {
      good = await ctx.passwords.verify(password, found?.hash ?? (await decoy), exchange.address)
    } catch (error) {
      if (!found) decoy = undefined
      if ((error as { code?: string }).code !== 'PASSWORD_BUSY') throw error
      throw ociError('TOOMANYREQUESTS', undefined, { message: 'too many logins at once', headers: { 'Retry-After': '2' } })
    }
    if (!good || !found) return false
    if (goodLogins.size >= rememberedLogins) goodLogins.clear()
    goodLogins.set(key, { version: found.credentialVersion, until: ctx.now() + goodLoginMs })
    return true
  }

  return {
    login,
    async authenticate(request, exchange) {
      const header = request.headers.get('authorization')
      if (header === null) return nobody
      const space = header.indexOf(' ')
      const scheme = header.slice(0, space < 0 ? undefined : space).toLowerCase()
      const value = space < 0 ? '' : header.slice(space + 1).trim()
      if (scheme === 'bearer' && value !== '') return await bearer(value, exchange)
      const basic = scheme === 'basic' ? parseBasic(value) : undefined
      if (!basic) throw refused(ctx, exchange, undefined, 'neither a Bearer token nor Basic credentials')
      return { principal: (await login(basic.name, basic.password, exchange)).account }
    },
  }
}

/** Name and password of a Basic header's value, or undefined where it is none.  Source: RFC 7617. */
export function parseBasic(value: string): { name: string; password: string } | undefined {
  if (value.length > 4096) return undefined
  try {
    const bytes = Uint8Array.from(atob(value), (char) => char.charCodeAt(0))
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    const colon = text.indexOf(':')
    return colon < 0 ? undefined : { name: text.slice(0, colon), password: text.slice(colon + 1) }
  } catch {
    return undefined
  }
}

function refused(ctx: Needs, exchange: Exchange, problem: 'invalid_token' | undefined, message: string): OciError {
  return ociError('UNAUTHORIZED', undefined, {
    message,
    headers: { 'WWW-Authenticate': ctx.challenge(exchange, exchange.scope, problem) },
  })
}

/**
 * The one challenge of every 401: Bearer, all values quoted, none empty, realm absolute. A second challenge or an empty scope breaks
 * docker, oras and others.  Source: distribution, "Token Authentication Specification".
 */
export function formatChallenge(service: string, exchange: Exchange, scope?: string, problem?: string): string {
  const parts = [`realm="${exchange.origin}/v2/token"`, `service="${service}"`]
  if (scope) parts.push(`scope="${scope}"`)
  if (problem) parts.push(`error="${problem}"`)
  return `Bearer ${parts.join(',')}`
}
