import type { Base, Exchange, Ports } from '../context.ts'
import { change } from '../journal/change.ts'
import { ociError } from '../oci/errors.ts'
import { type Account, findAccountBy, parseRole, upsertAccount } from './accounts.ts'
import { addCredential, prepareSecret } from './credentials.ts'
import { isOidcFailure, type OidcIssuer } from './oidc.ts'
import { challengeOf, pkce } from './pkce.ts'
import { hashSecret } from './secrets.ts'
import { cookie, sessionCookie, sessionMs } from './session.ts'

/** The issuer that people log in through, and what we are to it. */
export interface BrowserLogins {
  issuer: OidcIssuer
  issuerName: string
  clientId: string
  clientSecret?: string
  redirectUri?: string
  /** of everybody who logs in this way */
  roles: readonly string[]
  /** the claim whose values are roles as well */
  rolesClaim?: string
}

type Needs = Base & Pick<Ports, 'metadata' | 'browserLogins'>

/** How long the way to the issuer and back may take. */
const loginMs = 10 * 60_000
/** How long the command line has to fetch what its login ended with. */
const codeMs = 60_000
const stateCookie = 'mcr_login'

/** Where a login for the command line goes back to: a port of the machine the browser runs on, with the challenge of who waits there. */
const forCommandLine = /^cli:([1-9][0-9]{3,4}):([A-Za-z0-9_-]{43})$/

function commandLineOf(query: URLSearchParams): string | undefined {
  const port = query.get('cli_port')
  return port === null ? undefined : `cli:${port}:${query.get('cli_challenge') ?? ''}`
}

/** GET start: sends the browser to the issuer. State, nonce and verifier are kept until it comes back, once. Errors: NOT_FOUND, INVALID. */
export async function startBrowserLogin(ctx: Needs, exchange: Exchange, query: URLSearchParams): Promise<Response> {
  const logins = configured(ctx)
  const returnTo = commandLineOf(query) ?? query.get('return_to') ?? '/'
  // A path of ours and nothing else: `//host` and `/\host` are other sites to a browser.
  if (!forCommandLine.test(returnTo) && (!/^\/(?![/\\])[\x21-\x7e]*$/.test(returnTo) || returnTo.length > 1024))
    throw ociError('INVALID', undefined, { message: 'return_to: a path of this registry' })
  const state = random()
  const nonce = random()
  const { verifier, challenge } = await pkce()
  const hashed = await hashSecret(state)
  const expiresAt = ctx.now() + loginMs
  await ctx.metadata.write(async (sql) => {
    await sql.run(`DELETE FROM browser_logins WHERE expires_at < ?`, [ctx.now()])
    await sql.run(`INSERT INTO browser_logins(state, issuer, nonce, verifier, return_to, expires_at) VALUES (?,?,?,?,?,?)`, [
      hashed,
      logins.issuerName,
      nonce,
      verifier,
      returnTo,
      expiresAt,
    ])
  })
  const url = await asking(() =>
    logins.issuer.authorizationUrl({
      clientId: logins.clientId,
      redirectUri: redirectUri(logins, exchange),
      state,
      nonce,
      codeChallenge: challenge,
    }),
  )
  // The cookie binds the answer to this browser: a link with somebody else's code logs nobody in.
  return redirect(url, [
    `${stateCookie}=${state}; Path=/auth; HttpOnly; SameSite=Lax; Max-Age=${loginMs / 1000}${secure(exchange)}`,
  ])
}

/** GET callback: the issuer's answer becomes an account, a session and a cookie. Errors: UNAUTHORIZED, UNAVAILABLE. */
export async function finishBrowserLogin(
  ctx: Needs,
  exchange: Exchange,
  query: URLSearchParams,
  cookies: string | null,
): Promise<Response> {
  const logins = configured(ctx)
  const refused = (message: string) => {
    ctx.note({ type: 'login_failed', actor: 'anonymous', address: exchange.address, detail: { with: 'sso' } })
    return ociError('UNAUTHORIZED', undefined, { message })
  }
  const state = query.get('state') ?? ''
  const code = query.get('code')
  if (state === '' || cookie(cookies, stateCookie) !== state)
    throw refused('this login did not begin in this browser: start again')
  const hashed = await hashSecret(state)
  const found = await ctx.metadata.write(async (sql) => {
    const [row] = await sql.all<{ nonce: string; verifier: string; returnTo: string; expiresAt: number }>(
      `DELETE FROM browser_logins WHERE state = ? RETURNING nonce, verifier, return_to AS returnTo, expires_at AS expiresAt`,
      [hashed],
    )
    return row
  })
  if (!found || found.expiresAt < ctx.now()) throw refused('this login took too long or was used before: start again')
  if (code === null) throw refused('the issuer did not let you in')
  const claims = await asking(() =>
    logins.issuer.exchangeCode({
      clientId: logins.clientId,
      clientSecret: logins.clientSecret,
      redirectUri: redirectUri(logins, exchange),
      code,
      codeVerifier: found.verifier,
      nonce: found.nonce,
    }),
  ).catch((error) => {
    if (isOidcFailure(error)) throw refused('the issuer did not confirm the login')
    throw error
  })
  const now = ctx.now()
  const subject = `oidc:${logins.issuerName}:${String(claims.sub)}`
  exchange.principal = subject
  const account = { subject, name: nameOf(claims), kind: 'human' as const, source: 'oidc', roles: rolesOf(claims, logins), now }
  ctx.note({ type: 'login', actor: subject, address: exchange.address, detail: { with: 'sso' } })
  const over = `${stateCookie}=; Path=/auth; HttpOnly; SameSite=Lax; Max-Age=0${secure(exchange)}`
  const commandLine = forCommandLine.exec(found.returnTo)
  if (commandLine) {
    const code = random()
    const hashedCode = await hashSecret(code)
    await ctx.metadata.write(async (sql) => {
      await upsertAccount(sql, account)
      await sql.run(
        `INSERT INTO browser_logins(state, issuer, nonce, verifier, return_to, expires_at) VALUES (?,?,'cli',?,'',?)`,
        [hashedCode, subject, commandLine[2] as string, now + codeMs],
      )
    })
    return redirect(`http://127.0.0.1:${commandLine[1]}/?code=${code}`, [over])
  }
  const { secret, hash } = await prepareSecret('session')
  await change(ctx, { principal: { subject }, exchange }, async (sql, append) => {
    const accountId = await upsertAccount(sql, account)
    await sql.run(`DELETE FROM credentials WHERE account_id = ? AND expires_at < ?`, [accountId, now])
    const id = await addCredential(sql, { accountId, kind: 'session', name: 'browser', hash, expiresAt: now + sessionMs, now })
    append({ type: 'credential_added', detail: { subject, id, kind: 'session' } })
  })
  return redirect(found.returnTo, [sessionCookie(exchange.origin, secret), over])
}

/**
 * The account that a code for the command line stands for, once, for who has the verifier of its challenge.
 * Shape: undefined for a code that is wrong, used, late, or another's.
 */
export async function accountOfCode(
  ctx: Pick<Needs, 'metadata' | 'now'>,
  code: string,
  verifier: string,
): Promise<Account | undefined> {
  const hashed = await hashSecret(code)
  const challenge = await challengeOf(verifier)
  return await ctx.metadata.write(async (sql) => {
    const [row] = await sql.all<{ subject: string; challenge: string; expiresAt: number }>(
      `DELETE FROM browser_logins WHERE state = ? AND nonce = 'cli' RETURNING issuer AS subject, verifier AS challenge, expires_at AS expiresAt`,
      [hashed],
    )
    if (!row || row.expiresAt < ctx.now() || row.challenge !== challenge) return undefined
    const account = await findAccountBy(sql, row.subject)
    return account?.disabled ? undefined : account
  })
}

function configured({ browserLogins }: Needs): BrowserLogins {
  if (!browserLogins)
    throw ociError('NOT_FOUND', undefined, { message: 'no issuer is configured: set sso.issuer and sso.client_id' })
  return browserLogins
}

const redirectUri = (logins: BrowserLogins, exchange: Exchange) =>
  logins.redirectUri ?? `${exchange.origin}/auth/oidc/sso/callback`
const secure = ({ origin }: Exchange) => (origin.startsWith('https:') ? '; Secure' : '')

async function asking<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask()
  } catch (error) {
    if (isOidcFailure(error) && error.code === 'OIDC_UNAVAILABLE')
      throw ociError('UNAVAILABLE', undefined, { message: 'the issuer cannot be reached', headers: { 'Retry-After': '10' } })
    throw error
  }
}

function nameOf(claims: Record<string, unknown>): string {
  const name = [claims.preferred_username, claims.email, claims.name, claims.sub].find(
    (value) => typeof value === 'string' && value !== '',
  )
  return String(name).slice(0, 128)
}

/** The set of this login, in place of the one before: who left a group at the issuer has left it here. */
function rolesOf(claims: Record<string, unknown>, { roles, rolesClaim }: BrowserLogins): string[] {
  const claimed = rolesClaim === undefined ? [] : [claims[rolesClaim] ?? []].flat()
  const valid = claimed.filter((role): role is string => {
    try {
      return typeof role === 'string' && parseRole(role) === role
    } catch {
      return false
    }
  })
  return [...new Set([...roles, ...valid])].slice(0, 32)
}

function random(): string {
  return btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32))))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
}

function redirect(location: string, cookies: readonly string[]): Response {
  const response = new Response(null, {
    status: 303,
    headers: { Location: location, 'Cache-Control': 'no-store', 'Content-Length': '0' },
  })
  for (const value of cookies) response.headers.append('Set-Cookie', value)
  return response
}
