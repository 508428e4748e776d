import type { IdentitySources } from '../lib/auth/authenticate.ts'
import { anyOfSources, createMcSource, type McSource } from '../lib/auth/identities.ts'
import { verifyIdToken } from '../lib/auth/jwt.ts'
import { toldBy } from '../lib/auth/keep.ts'
import { createMcias } from '../lib/auth/mcias.ts'
import { createOidcIssuer, type OidcIssuer } from '../lib/auth/oidc.ts'
import { createTrusts } from '../lib/auth/trusts.ts'
import type { Base, Ports } from '../lib/context.ts'
import type { Config } from './config.ts'
import { createOutgoingFetch } from './outgoing.ts'

export interface Identities {
  sources: IdentitySources | undefined
  trusts: Ports['trusts']
  browserLogins: Ports['browserLogins']
  mcias: McSource | undefined
}

/** The services that know people and jobs besides us, as the configuration and the trusts name them. */
export function createIdentities(
  ctx: Pick<Base, 'now' | 'note' | 'log'> & Pick<Ports, 'metadata'>,
  config: Pick<Config, 'mcias' | 'sso'>,
  secret: Uint8Array<ArrayBuffer> | undefined,
): Identities {
  const { now } = ctx
  const issuers = new Map<string, OidcIssuer>()
  const fetch = createOutgoingFetch()
  const issuerOf = (issuer: string) => {
    const known = issuers.get(issuer)
    if (known) return known
    const made = createOidcIssuer({
      issuer,
      fetch,
      now,
      told: (what) => toldBy(ctx.metadata, `${what} ${issuer}`, now),
      verify: (token, jwks, options) => verifyIdToken(token, jwks, { ...options, now: now() }),
    })
    if (issuers.size > 100) issuers.clear()
    issuers.set(issuer, made)
    return made
  }
  const trusts = createTrusts(ctx, issuerOf)
  const { serverUrl, caCert, serviceName, tags, issuer, accountType, offlineGraceMs } = config.mcias
  const mcias =
    serverUrl === undefined
      ? undefined
      : createMcSource(
          ctx,
          createMcias({
            serverUrl,
            serviceName,
            tags,
            now,
            fetch: createOutgoingFetch(caCert),
          }),
          {
            issuer: issuer ?? serverUrl,
            accountType,
            graceMs: offlineGraceMs,
            secret,
            told: toldBy(ctx.metadata, `key ${serverUrl}`, now),
          },
        )
  const { sso } = config
  return {
    sources: anyOfSources([trusts, ...(mcias ? [mcias] : [])]),
    trusts,
    mcias,
    browserLogins:
      sso.issuer === undefined || sso.clientId === undefined
        ? undefined
        : {
            issuer: issuerOf(sso.issuer),
            issuerName: sso.issuer,
            clientId: sso.clientId,
            clientSecret: sso.clientSecret,
            redirectUri: sso.redirectUri,
            roles: sso.roles,
            rolesClaim: sso.rolesClaim,
          },
  }
}
