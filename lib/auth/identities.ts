import type { Base, Exchange, Ports } from '../context.ts'
import { ociError } from '../oci/errors.ts'
import { upsertAccount } from './accounts.ts'
import type { IdentitySources, Login } from './authenticate.ts'
import { findCredential, findSecret, isAlive, upsertExternal } from './credentials.ts'
import { claimedIssuer, verifyMciasToken } from './jwt.ts'
import type { Told } from './keep.ts'
import { isMciasFailure, type McIdentity, type Mcias } from './mcias.ts'
import { seal, sealingKeyOf, unseal } from './seal.ts'
import { hashSecret } from './secrets.ts'

type Needs = Pick<Base, 'now' | 'note' | 'log'> & Pick<Ports, 'metadata'>

/** A token that the service called valid is not asked about again for this long. */
const validMs = 30_000
/** A good password is not sent again for this long: the service makes a token for each login. */
const goodLoginMs = 60_000
const remembered = 1_000
/** Credentials used within this time are asked about by the job; registry tokens end sooner. */
const usedMs = 10 * 60_000

export interface McSource extends IdentitySources {
  /** Asks again about what is in use; what is no longer valid is gone with the next request on every process. */
  revalidate(): Promise<{ asked: number; revoked: number }>
}

/**
 * The remote identity service as a source of principals (T6): each has a row, subject `mcias:<uuid>`, refreshed as the service describes it.
 * Its tokens are exchanged, not carried; they are kept sealed, to be asked about again. While it cannot be reached, tokens that were valid
 * online before count by their signature for `graceMs`; everything else is UNAVAILABLE, never UNAUTHORIZED.
 */
export function createMcSource(
  ctx: Needs,
  mcias: Mcias,
  options: {
    issuer: string
    accountType: 'human' | 'system'
    graceMs: number
    secret: Uint8Array<ArrayBuffer> | undefined
    /** The service's key, as it told any process. */
    told: Told<JsonWebKey>
  },
): McSource {
  const goodLogins = new Map<string, { credentialId: number; until: number }>()
  const memoryKey = crypto.subtle.generateKey({ name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
  const asking = new Map<string, Promise<Login | undefined>>()

  async function keep(token: string, identity: McIdentity): Promise<Login> {
    const hash = await hashSecret(token)
    const sealed = options.secret ? await seal(await sealingKeyOf(options.secret), { token }, hash) : null
    const now = ctx.now()
    // While the service is there: its key is what counts when it is not. Kept for ten minutes, never throws.
    const jwk = options.graceMs > 0 ? await mcias.publicKey() : undefined
    if (jwk) await options.told.write(jwk)
    const id = await ctx.metadata.write(async (sql) => {
      const accountId = await upsertAccount(sql, { ...accountOf(identity), now })
      return await upsertExternal(sql, {
        accountId,
        name: 'mcias',
        hash,
        expiresAt: identity.expiresAt,
        now,
        validatedAt: now,
        sealed,
      })
    })
    return (await loginBy(id)) as Login
  }

  const accountOf = ({ sub, username, roles, accountType }: McIdentity) => ({
    subject: `mcias:${sub}`,
    name: username ?? sub,
    kind: accountType ?? options.accountType,
    source: 'mcias',
    roles,
  })

  async function loginBy(credentialId: number): Promise<Login | undefined> {
    const found = await findCredential(ctx.metadata.read, credentialId)
    if (!found || !isAlive(found, ctx.now())) return undefined
    const { account, id, version, kind, expiresAt, narrowing } = found
    return { account, credentialId: id, credentialVersion: version, kind, expiresAt, narrowing }
  }

  async function askAbout(token: string): Promise<Login | undefined> {
    const known = await findSecret(ctx.metadata.read, await hashSecret(token))
    if (known && !isAlive(known, ctx.now())) return undefined
    if (known?.validatedAt && ctx.now() - known.validatedAt < validMs) return await loginBy(known.id)
    try {
      const identity = await mcias.validate(token)
      if (identity) return await keep(token, identity)
      if (known) await ctx.metadata.write((sql) => sql.run(`DELETE FROM credentials WHERE id = ?`, [known.id]))
      return undefined
    } catch (error) {
      if (!isMciasFailure(error)) throw error
      if (error.code === 'IDENTITY_UNAVAILABLE' && known?.validatedAt && ctx.now() - known.validatedAt < options.graceMs) {
        const jwk = (await mcias.publicKey()) ?? (await options.told.read())?.value
        if (jwk && (await verifyMciasToken(token, jwk, { issuer: options.issuer, now: ctx.now() })))
          return await loginBy(known.id)
      }
      throw refusal(error)
    }
  }

  async function byToken(token: string): Promise<Login | undefined> {
    if (claimedIssuer(token) !== options.issuer) return undefined
    const running = asking.get(token) ?? askAbout(token).finally(() => asking.delete(token))
    asking.set(token, running)
    return await running
  }

  return {
    byToken,
    async byPassword(name, password, exchange, totp) {
      const mac = await crypto.subtle.sign('HMAC', await memoryKey, new TextEncoder().encode(`${name}\0${password}`))
      const key = String.fromCharCode(...new Uint8Array(mac))
      const known = goodLogins.get(key)
      if (known && known.until > ctx.now()) {
        const login = await loginBy(known.credentialId)
        if (login) return login
      }
      try {
        const { token } = await mcias.login(name, password, totp)
        // The answer to a login has no roles: they are asked for.
        const identity = await mcias.validate(token)
        if (!identity) return undefined
        const login = await keep(token, identity)
        if (goodLogins.size >= remembered) goodLogins.clear()
        goodLogins.set(key, { credentialId: login.credentialId, until: ctx.now() + goodLoginMs })
        ctx.note({ type: 'login', actor: login.account.subject, address: exchange.address, detail: { with: 'mcias' } })
        return login
      } catch (error) {
        if (!isMciasFailure(error)) throw error
        if (error.code === 'IDENTITY_REFUSED') return undefined
        throw refusal(error)
      }
    },
    async revalidate() {
      const report = { asked: 0, revoked: 0 }
      if (!options.secret) return report
      const now = ctx.now()
      const due = await ctx.metadata.read.all<{ id: number; hash: string; sealed: Uint8Array<ArrayBuffer> }>(
        `SELECT id, secret AS hash, sealed FROM credentials WHERE kind = 'external' AND name = 'mcias' AND sealed IS NOT NULL
         AND validated_at < ? AND max(coalesce(last_used_at, 0), created_at) > ? ORDER BY validated_at LIMIT 500`,
        [now - validMs + 5_000, now - usedMs],
      )
      const sealing = await sealingKeyOf(options.secret)
      for (const { id, hash, sealed } of due) {
        const { token } = await unseal<{ token: string }>(sealing, sealed, hash)
        report.asked++
        try {
          const identity = await mcias.validate(token)
          if (identity) await keep(token, identity)
          else {
            report.revoked++
            await ctx.metadata.write((sql) => sql.run(`DELETE FROM credentials WHERE id = ?`, [id]))
          }
        } catch (error) {
          if (!isMciasFailure(error)) throw error
          ctx.log({ level: 'warn', event: 'identity_service_failed', code: error.code })
          return report
        }
      }
      return report
    },
  }
}

/** What the service's answer means for who asked us. */
function refusal(error: Error & { code: string }): Error {
  if (error.code === 'IDENTITY_TOTP')
    return ociError('UNAUTHORIZED', undefined, {
      message: 'a code of the second factor is wanted: mcr login --totp, or a personal token as password',
    })
  if (error.code === 'IDENTITY_DENIED')
    return ociError('DENIED', undefined, { message: 'the identity service does not let this account in here' })
  return ociError('UNAVAILABLE', undefined, {
    message: 'the identity service cannot be reached',
    headers: { 'Retry-After': '10' },
  })
}

/** Asks one source after the other; the first that knows answers. */
export function anyOfSources(sources: readonly IdentitySources[]): IdentitySources | undefined {
  if (sources.length === 0) return undefined
  const first = async (ask: (source: IdentitySources) => Promise<Login | undefined>) => {
    for (const source of sources) {
      const found = await ask(source)
      if (found) return found
    }
    return undefined
  }
  return {
    byPassword: (name: string, password: string, exchange: Exchange, totp?: string) =>
      first((source) => source.byPassword(name, password, exchange, totp)),
    byToken: (token, exchange) => first((source) => source.byToken(token, exchange)),
  }
}
