import type { Base, Exchange, Ports } from '../context.ts'
import type { Sql } from '../metadata/sql.ts'
import { ociError } from '../oci/errors.ts'
import type { Action } from '../policy/actions.ts'
import { compileGlob } from '../policy/glob.ts'
import { upsertAccount } from './accounts.ts'
import type { IdentitySources, Login } from './authenticate.ts'
import { claimsMatch } from './claims.ts'
import { findCredential, isAlive, upsertExternal } from './credentials.ts'
import { claimedIssuer } from './jwt.ts'
import { isOidcFailure, type OidcIssuer } from './oidc.ts'
import { hashSecret } from './secrets.ts'

/** Whose ID tokens are exchanged, and for what. `claims` are `name=value`, with `*` in the value; all must fit. */
export interface Trust {
  readonly id: number
  readonly description: string
  readonly issuer: string
  readonly audience: string
  readonly claims: readonly string[]
  readonly roles: readonly string[]
  readonly actions: readonly Action[]
  readonly repositories: readonly string[]
  readonly createdAt: number
}

/** Every trust, oldest first. */
export async function listTrusts(sql: Sql): Promise<Trust[]> {
  const rows = await sql.all<Record<keyof Trust, string & number>>(
    `SELECT id, description, issuer, audience, claims, roles, actions, repositories, created_at AS createdAt FROM trusts ORDER BY id LIMIT 1000`,
  )
  return rows.map(({ claims, roles, actions, repositories, ...row }) => ({
    ...row,
    claims: JSON.parse(claims) as string[],
    roles: JSON.parse(roles) as string[],
    actions: JSON.parse(actions) as Action[],
    repositories: JSON.parse(repositories) as string[],
  }))
}

/** Who an ID token stands for: a subject of its own, with the roles and limits of the first trust that fits. */
export interface TrustedIdentity {
  subject: string
  name: string
  trust: Trust
  /** ms since 1970 */
  expiresAt: number
}

/**
 * ID tokens of CI jobs as a source of principals (T8), without a stored secret: an issuer and audience that an administrator named, and
 * claims that fit. `issuerOf` opens an issuer by its address; only addresses of trusts are ever asked.
 */
export function createTrusts(
  ctx: Pick<Base, 'now' | 'note'> & Pick<Ports, 'metadata'>,
  issuerOf: (issuer: string) => OidcIssuer,
): IdentitySources & { identify(token: string): Promise<TrustedIdentity | undefined> } {
  async function identify(token: string): Promise<TrustedIdentity | undefined> {
    const issuer = claimedIssuer(token)
    const trusts = (await listTrusts(ctx.metadata.read)).filter((trust) => trust.issuer === issuer)
    if (issuer === undefined || trusts.length === 0) return undefined
    let claims: Record<string, unknown> | undefined
    try {
      claims = await issuerOf(issuer).verifyIdToken(token, [...new Set(trusts.map((trust) => trust.audience))])
    } catch (error) {
      if (!isOidcFailure(error) || error.code !== 'OIDC_UNAVAILABLE') throw error
      throw ociError('UNAVAILABLE', undefined, {
        message: `the issuer ${issuer} cannot be reached`,
        headers: { 'Retry-After': '10' },
      })
    }
    if (!claims) return undefined
    const audiences = [claims.aud].flat()
    const trust = trusts.find(
      ({ audience, claims: wanted }) =>
        audiences.includes(audience) && claimsMatch(claims, wantedOf(wanted), (pattern, text) => compileGlob(pattern)(text)),
    )
    if (!trust || typeof claims.sub !== 'string' || typeof claims.exp !== 'number') return undefined
    return { subject: `oidc:${issuer}:${claims.sub}`, name: claims.sub.slice(0, 128), trust, expiresAt: claims.exp * 1000 }
  }

  return {
    identify,
    byPassword: async () => undefined,
    async byToken(token: string, exchange: Exchange): Promise<Login | undefined> {
      const identity = await identify(token)
      if (!identity) return undefined
      const hash = await hashSecret(token)
      const now = ctx.now()
      const id = await ctx.metadata.write(async (sql) => {
        const accountId = await addTrusted(sql, identity, now)
        const { scope } = grantOf(identity)
        return await upsertExternal(sql, {
          accountId,
          name: 'oidc',
          hash,
          scope,
          expiresAt: identity.expiresAt,
          now,
          validatedAt: now,
          sealed: null,
        })
      })
      const found = await findCredential(ctx.metadata.read, id)
      if (!found || !isAlive(found, now)) return undefined
      ctx.note({
        type: 'login',
        actor: identity.subject,
        address: exchange.address,
        detail: { with: 'oidc', trust: identity.trust.id },
      })
      const { account, version, kind, expiresAt, narrowing } = found
      return { account, credentialId: id, credentialVersion: version, kind, expiresAt, narrowing }
    },
  }
}

/**
 * The account that a trusted identity acts as, made or refreshed; its rights are an allow of its own, and its credential's limits.
 * Errors: UNAUTHORIZED where its trust is gone.
 */
export async function addTrusted(sql: Sql, { subject, name, trust }: TrustedIdentity, now: number): Promise<number> {
  // Its issuer was asked for keys meanwhile, and the trust may be gone.
  if ((await sql.all(`SELECT 1 AS one FROM trusts WHERE id = ?`, [trust.id])).length === 0)
    throw ociError('UNAUTHORIZED', undefined, { message: 'the trust was deleted just now' })
  const accountId = await upsertAccount(sql, { subject, name, kind: 'system', source: 'oidc', roles: trust.roles, now })
  const rule = JSON.stringify({
    effect: 'allow',
    subject_uuid: subject,
    actions: trust.actions,
    repositories: trust.repositories,
  })
  const [before] = await sql.all<{ id: number; rule: string }>(
    `SELECT id, rule FROM policy_rules WHERE managed_by = ? ORDER BY id LIMIT 1`,
    [accountId],
  )
  if (trust.actions.length === 0) {
    if (before) await sql.run(`DELETE FROM policy_rules WHERE managed_by = ?`, [accountId])
  } else if (!before)
    await sql.run(
      `INSERT INTO policy_rules(priority, description, rule, enabled, managed_by, created_at, updated_at) VALUES (100, ?, ?, 1, ?, ?, ?)`,
      [`trust ${trust.id}: ${name.slice(0, 100)}`, rule, accountId, now, now],
    )
  else if (before.rule !== rule)
    await sql.run(`UPDATE policy_rules SET rule = ?, updated_at = ? WHERE id = ?`, [rule, now, before.id])
  return accountId
}

/** What a credential of a trusted identity is limited to. Roles may allow more than the trust means to give: the limit holds. */
export function grantOf({ trust }: TrustedIdentity): {
  scope: { actions: readonly Action[]; repositories: readonly string[] } | undefined
} {
  return { scope: trust.actions.length > 0 ? { actions: trust.actions, repositories: trust.repositories } : undefined }
}

/** `name=value` texts as an object. */
export function wantedOf(claims: readonly string[]): Record<string, string> {
  return Object.fromEntries(claims.map((text) => [text.slice(0, text.indexOf('=')), text.slice(text.indexOf('=') + 1)]))
}
