import type { Login } from '../../lib/auth/authenticate.ts'
import { parseBasic } from '../../lib/auth/challenge.ts'
import { anonymous, type Caller } from '../../lib/auth/principal.ts'
import { type Access, formatScope, parseScopes } from '../../lib/auth/scope.ts'
import type { Base, Exchange, Ports } from '../../lib/context.ts'
import { readBody } from '../../lib/http/body.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { json } from '../../lib/http/response.ts'
import { ociError } from '../../lib/oci/errors.ts'
import type { Action } from '../../lib/policy/actions.ts'

type Needs = Base & Pick<Ports, 'tokens' | 'logins' | 'limits'>

const get = endpoint({
  spec: 'token',
  method: 'GET',
  path: '/v2/token',
  action: 'public',
  errors: ['UNAUTHORIZED', 'TOOMANYREQUESTS', 'UNSUPPORTED'],
  needs: ['tokens', 'logins', 'limits'],
  async handle({ request, query, exchange }, ctx) {
    const header = request.headers.get('authorization')
    if (header === null) return await grant(ctx, exchange, undefined, query.getAll('scope'))
    const basic = /^basic +/i.test(header) ? parseBasic(header.replace(/^basic +/i, '').trim()) : undefined
    if (!basic) throw ociError('UNAUTHORIZED', undefined, { message: 'a token is given for Basic credentials' })
    return await grant(ctx, exchange, await ctx.logins.login(basic.name, basic.password, exchange), query.getAll('scope'))
  },
})

const post = endpoint({
  spec: 'token',
  method: 'POST',
  path: '/v2/token',
  action: 'public',
  errors: ['UNAUTHORIZED', 'TOOMANYREQUESTS', 'UNSUPPORTED', 'SIZE_INVALID'],
  needs: ['tokens', 'logins', 'limits'],
  async handle({ request, exchange }, ctx) {
    const form = new URLSearchParams(new TextDecoder().decode(await readBody(request, 64 * 1024, 'SIZE_INVALID')))
    const kind = form.get('grant_type')
    if (kind !== 'password' && kind !== 'refresh_token')
      throw ociError(
        'UNSUPPORTED',
        { grant_type: kind?.slice(0, 64) ?? null, supported: ['password', 'refresh_token'] },
        { status: 400 },
      )
    // A personal or robot token stands for a refresh token; we never give one out ourselves.
    const name = kind === 'password' ? (form.get('username') ?? '') : 'token'
    if (name.includes('\0')) throw ociError('UNAUTHORIZED', undefined, { message: 'wrong name or password' })
    const login = await ctx.logins.login(name, form.get(kind === 'password' ? 'password' : 'refresh_token') ?? '', exchange)
    return await grant(ctx, exchange, login, form.getAll('scope'))
  },
})

/**
 * GET and POST /v2/token: a registry token for the scopes asked, narrowed to what the policy allows. Always 200 when the login is good,
 * also when nothing is granted: what is missing is told by the 401 that the token then meets. No refresh token, ever: docker would throw
 * the password away for it.
 */
export default handler(get, post)

async function grant(ctx: Needs, exchange: Exchange, login: Login | undefined, scopes: string[]): Promise<Response> {
  const principal = login?.account ?? anonymous
  const caller: Caller = { principal, narrowing: login?.narrowing }
  exchange.principal = principal.subject
  const access: Access[] = []
  for (const asked of requested(scopes, ctx.limits.tokenScopes))
    access.push({ ...asked, actions: await allowed(ctx, exchange, caller, asked) })
  const token = await ctx.tokens.sign({
    sub: principal.subject,
    cid: login?.credentialId ?? 0,
    cver: login?.credentialVersion ?? 0,
    access,
  })
  ctx.count('tokens_total')
  if (login)
    ctx.note({ type: 'token_made', actor: principal.subject, address: exchange.address, detail: { scope: formatScope(access) } })
  // No issued_at: docker would count the token's life by its own clock.
  return json(
    { token, access_token: token, expires_in: ctx.tokens.ttlSeconds, scope: formatScope(access) },
    { 'Cache-Control': 'no-store' },
  )
}

function requested(scopes: string[], most: number): Access[] {
  try {
    return parseScopes(scopes, most)
  } catch (error) {
    throw ociError('UNSUPPORTED', (error as Error).message, { status: 400, message: 'too many scopes' })
  }
}

const actionOf: Readonly<Record<string, Action>> = { pull: 'registry:pull', push: 'registry:push', delete: 'registry:delete' }

async function allowed(ctx: Needs, exchange: Exchange, caller: Caller, asked: Access): Promise<string[]> {
  const may = async (action: Action, repository?: string) =>
    (await ctx.decide(caller, exchange, action, repository === undefined ? undefined : { repository })).allow
  if (asked.type === 'registry')
    return asked.name === 'catalog' && asked.actions.includes('*') && (await may('registry:catalog')) ? ['*'] : []
  const wanted = asked.actions.includes('*') ? Object.keys(actionOf) : asked.actions
  const granted: string[] = []
  for (const verb of wanted) if (await may(actionOf[verb] as Action, asked.name)) granted.push(verb)
  return granted
}
