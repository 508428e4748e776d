import type { Base, Exchange, Ports } from '../context.ts'
import { type OciError, ociError } from '../oci/errors.ts'
import { type Account, findPasswordLogin } from './accounts.ts'
import { parseBasic } from './challenge.ts'
import { type Credential, findCredential, findSecret, isAlive } from './credentials.ts'
import { checkLoginLimit, countFailedLogin } from './login-limit.ts'
import { createPasswordCheck } from './password-check.ts'
import { anonymous, type Caller, type Narrowing } from './principal.ts'
import { hashSecret, kindOfSecret, type SecretKind } from './secrets.ts'
import { requirePage, sessionOf } from './session.ts'

type Needs = Pick<Base, 'now' | 'remember' | 'count' | 'challenge' | 'note' | 'touch'> &
  Pick<Ports, 'metadata' | 'passwords' | 'tokens'>

const rememberedSecrets = 10_000

/** A login by name and password: what a token is made from. */
export interface Login {
  account: Account
  credentialId: number
  credentialVersion: number
  kind: Credential['kind']
  expiresAt: number | null
  narrowing?: Narrowing
}

/**
 * Which doors a credential opens (T1): `registry` is /v2, where registry tokens count; `admin` is /v1, RPC and pages, where logins and
 * sessions do. Passwords, personal and robot tokens open both.
 */
export type Plane = 'registry' | 'admin'

/** The part of a request that proves who sent it; an RPC without cookies has no method. */
export interface Credentialed {
  readonly headers: Pick<Headers, 'get'>
  readonly method?: string
}

/** Other services that know people: asked for names and tokens that are not ours. Undefined: they do not know it either. */
export interface IdentitySources {
  byPassword(name: string, password: string, exchange: Exchange, totp?: string): Promise<Login | undefined>
  byToken(token: string, exchange: Exchange): Promise<Login | undefined>
}

export interface Authentication {
  authenticate: Base['authenticate']
  /** Errors: UNAUTHORIZED, the same for an unknown name as for a wrong password; TOOMANYREQUESTS; UNAVAILABLE. */
  login(name: string, password: string, exchange: Exchange, totp?: string): Promise<Login>
}

const nobody: Caller = { principal: anonymous }

/**
 * Who calls: a registry token, a token of ours, a session, or a name and password on any route. Credentials that are sent and wrong are
 * always 401 and never fall back to anonymous. `onLogin` hears of every good login by password. State, roles and version of the account
 * are those of this moment, whatever a token was made from.
 */
export function createAuthentication(
  ctx: Needs,
  options: {
    onLogin?: (name: string) => void
    sources?: IdentitySources
    /** how long the identity service's last word counts, ms */
    vouchedMs?: number
  } = {},
): Authentication {
  const passwordIsGood = createPasswordCheck(ctx)
  const secretHashes = new Map<string, string>()

  async function registryToken(token: string, exchange: Exchange): Promise<Caller> {
    const claims = await ctx.tokens.verify(token)
    if (!claims) throw tokenRefused(exchange, 'the token is invalid or expired')
    if (claims.cid === 0) return { principal: anonymous, access: claims.access }
    const credential = await ctx.remember(`credential ${claims.cid}`, () => findCredential(ctx.metadata.read, claims.cid))
    if (!credential || !isAlive(credential, ctx.now()) || credential.version !== claims.cver)
      throw tokenRefused(exchange, 'the token was revoked', claims.sub)
    if (credential.kind === 'external') {
      ctx.touch(credential.id)
      if (credential.account.source === 'mcias' && ctx.now() - (credential.validatedAt ?? 0) > (options.vouchedMs ?? 0))
        throw ociError('UNAVAILABLE', undefined, {
          message: 'the identity service cannot be reached',
          headers: { 'Retry-After': '10' },
        })
    }
    return { ...callerOf(credential), access: claims.access }
  }

  /** The credential behind a secret of one of these kinds, alive; its use is noted. */
  async function bySecret(secret: string, kinds: readonly SecretKind[], exchange: Exchange): Promise<Credential> {
    const kind = kindOfSecret(secret)
    let hash = secretHashes.get(secret)
    if (kind && hash === undefined) {
      hash = await hashSecret(secret)
      if (secretHashes.size >= rememberedSecrets) secretHashes.clear()
      secretHashes.set(secret, hash)
    }
    const found =
      kind && kinds.includes(kind)
        ? await ctx.remember(`secret ${hash}`, () => findSecret(ctx.metadata.read, hash as string))
        : undefined
    if (!found || !isAlive(found, ctx.now()))
      throw tokenRefused(exchange, 'the token is invalid, expired or revoked', found?.account.subject)
    ctx.touch(found.id)
    return found
  }

  async function bearer(value: string, exchange: Exchange, plane: Plane): Promise<Caller> {
    if (value.startsWith('mcr'))
      return callerOf(await bySecret(value, plane === 'admin' ? ['personal', 'robot', 'login'] : ['personal', 'robot'], exchange))
    if (plane === 'registry') return await registryToken(value, exchange)
    throw tokenRefused(exchange, 'a registry token opens /v2 only: log in for a token, or use a personal one')
  }

  async function login(name: string, password: string, exchange: Exchange, totp?: string): Promise<Login> {
    // Nobody guesses 256 bits: a job with a token that ended does not close the name for the people of its address.
    if (kindOfSecret(password)) return await loginBySecret(password, exchange)
    await checkLoginLimit(ctx, name, exchange.address)
    try {
      const found = await findLogin(name, password, exchange, totp)
      // Many may be sent at once, and all have been let in before the first was counted: those beyond the bound are told nothing.
      await checkLoginLimit(ctx, name, exchange.address)
      if (found) {
        ctx.count('logins_total', { result: 'ok' })
        return found
      }
    } catch (error) {
      if ((error as OciError).code === 'UNAUTHORIZED') {
        await checkLoginLimit(ctx, name, exchange.address)
        await loginFailed(name, exchange)
      }
      throw error
    }
    await loginFailed(name, exchange)
    throw refused(exchange, undefined, 'wrong name or password')
  }

  async function loginBySecret(secret: string, exchange: Exchange): Promise<Login> {
    const found = loginOf(await bySecret(secret, ['personal', 'robot'], exchange))
    ctx.count('logins_total', { result: 'ok' })
    return found
  }

  async function loginFailed(name: string, exchange: Exchange): Promise<void> {
    ctx.count('logins_total', { result: 'refused' })
    // The name is whatever was typed, and people type passwords there: it is cut, and kept only where it could be a name.
    const shown = /^[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}$/.test(name) ? name : '?'
    ctx.note({ type: 'login_failed', actor: 'anonymous', address: exchange.address, detail: { name: shown } })
    await countFailedLogin(ctx, name, exchange.address)
  }

  async function findLogin(name: string, password: string, exchange: Exchange, totp?: string): Promise<Login | undefined> {
    if (/^[\w-]+\.[\w-]+\.[\w-]+$/.test(password) && password.length > 100) {
      const found = await options.sources?.byToken(password, exchange)
      if (found) return found
    }
    const found = await ctx.remember(`login ${name}`, () => findPasswordLogin(ctx.metadata.read, name))
    if (!found && options.sources) {
      const elsewhere = await options.sources.byPassword(name, password, exchange, totp)
      if (elsewhere) return elsewhere
    }
    if (!(await passwordIsGood(found, name, password, exchange)) || !found || found.account.disabled) return undefined
    options.onLogin?.(name)
    return { ...found, kind: 'password', expiresAt: null }
  }

  function tokenRefused(exchange: Exchange, message: string, subject = 'anonymous'): OciError {
    ctx.note({ type: 'token_refused', actor: subject, address: exchange.address })
    return refused(exchange, 'invalid_token', message)
  }

  function refused(exchange: Exchange, problem: 'invalid_token' | undefined, message: string): OciError {
    return ociError('UNAUTHORIZED', undefined, {
      message,
      headers: { 'WWW-Authenticate': ctx.challenge(exchange, exchange.scope, problem) },
    })
  }

  return {
    login,
    async authenticate(request, exchange, plane) {
      const header = request.headers.get('authorization')
      if (header === null) {
        const secret = plane === 'admin' && request.method !== undefined ? sessionOf(request, exchange) : undefined
        if (secret === undefined) return nobody
        const session = await bySecret(secret, ['session'], exchange)
        exchange.principal = session.account.subject
        await requirePage(request, exchange, secret)
        return callerOf(session)
      }
      const space = header.indexOf(' ')
      const scheme = header.slice(0, space < 0 ? undefined : space).toLowerCase()
      const value = space < 0 ? '' : header.slice(space + 1).trim()
      if (scheme === 'bearer' && value !== '') return await bearer(value, exchange, plane)
      const basic = scheme === 'basic' ? parseBasic(value) : undefined
      if (!basic) throw refused(exchange, undefined, 'neither a Bearer token nor Basic credentials')
      const { account, narrowing, credentialId, kind, expiresAt } = await login(basic.name, basic.password, exchange)
      return { principal: account, narrowing, credential: { id: credentialId, kind, expiresAt } }
    },
  }
}

function callerOf({ account, narrowing, id, kind, expiresAt }: Credential): Caller {
  return { principal: account, narrowing, credential: { id, kind, expiresAt } }
}

function loginOf({ account, narrowing, id, version, kind, expiresAt }: Credential): Login {
  return { account, narrowing, credentialId: id, credentialVersion: version, kind, expiresAt }
}
