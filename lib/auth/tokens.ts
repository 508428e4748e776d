import { metadataError, unlessFull } from '../metadata/errors.ts'
import type { MetadataStore, Sql } from '../metadata/sql.ts'
import { importTokenKey, type JwtKey, makeTokenKeyPair, signRegistryToken, verifyRegistryToken } from './jwt.ts'
import type { Access } from './scope.ts'
import { seal, sealingKeyOf, unseal } from './seal.ts'

/** What a registry token says. It names the credential it was made from; who that is and may do is looked up at every request. */
export interface TokenClaims {
  readonly sub: string
  /** credential row and its version when the token was made */
  readonly cid: number
  readonly cver: number
  readonly access: readonly Access[]
  /** seconds since 1970 */
  readonly exp: number
  readonly jti: string
}

/** The port to registry tokens. */
export interface TokenKeys {
  /** Seconds a token lives. */
  readonly ttlSeconds: number
  /** Signs a token. Errors: a plain Error where this process has no signing key. */
  sign(claims: Pick<TokenClaims, 'sub' | 'cid' | 'cver' | 'access'>): Promise<string>
  /**
   * Makes a new key that signs from now on; the one before verifies for twice a token's life. `store` puts it in place by `insert`, in one
   * transaction with whatever else belongs to it. Shape: the key's id.
   */
  rotate(store: (kid: string, insert: (sql: Sql) => Promise<void>) => Promise<void>): Promise<string>
  /** The claims of a token of ours that is valid now, or undefined: forged, foreign, expired, of another shape. */
  verify(token: string): Promise<TokenClaims | undefined>
}

const rotateMs = 30 * 24 * 3_600_000
/** Another process may have rotated: less than half a token's shortest life, so that nothing is signed with a key that ends before it. */
const recheckMs = 30_000
const rememberedTokens = 10_000

/**
 * Tokens as EdDSA JWTs with one fixed shape of verification. Keys are rows: the newest signs, older ones verify for twice a token's life
 * after they were replaced. Private halves are sealed with `secret` (32 bytes); a process without it verifies only.
 * `audience` is the instance's name: issuer, audience and service in one.
 */
export function createTokenKeys(options: {
  metadata: MetadataStore
  audience: string
  secret: Uint8Array<ArrayBuffer> | undefined
  ttlSeconds: number
  now: () => number
  newId: () => string
}): TokenKeys {
  const { metadata, audience, ttlSeconds, now, newId } = options
  const publicKeys = new Map<string, JwtKey>()
  // Verifying costs a quarter of a millisecond, remembering a microsecond. Keyed by the exact text; revocation never goes by it.
  const verified = new Map<string, TokenClaims>()
  let signing: { kid: string; key: JwtKey; createdAt: number; checkedAt: number } | undefined

  async function publicKey(kid: unknown): Promise<JwtKey> {
    if (typeof kid !== 'string' || !/^[A-Za-z0-9_-]{1,64}$/.test(kid)) throw new Error('no key id of ours')
    const known = publicKeys.get(kid)
    if (known) return known
    const rows = await metadata.read.all<{ jwk: string }>(
      `SELECT public_jwk AS jwk FROM signing_keys k WHERE kid = ?
       AND NOT EXISTS (SELECT 1 FROM signing_keys n WHERE n.created_at > k.created_at AND n.created_at < ?)`,
      [kid, now() - 2 * ttlSeconds * 1000],
    )
    if (!rows[0]) throw new Error('no such key')
    const key = await importTokenKey(JSON.parse(rows[0].jwk) as JsonWebKey)
    if (publicKeys.size > 16) publicKeys.clear()
    publicKeys.set(kid, key)
    return key
  }

  async function signingKey(): Promise<{ kid: string; key: JwtKey }> {
    if (signing && now() - signing.createdAt < rotateMs && now() - signing.checkedAt < recheckMs) return signing
    const sealing = await sealingKey()
    const newest = await newestKey(metadata.read, now() - rotateMs)
    // On a full disk an old key signs on: logging in to pull or to delete must not fail for want of space.
    const row = newest ?? (await unlessFull(makeKey(sealing))) ?? (await newestKey(metadata.read, 0))
    if (!row) throw metadataError('DB_FULL', 'no space for the first signing key')
    const key = await importTokenKey(await unseal(sealing, row.sealed, row.kid))
    signing = { kid: row.kid, key, createdAt: row.createdAt, checkedAt: now() }
    return signing
  }

  async function sealingKey(): Promise<CryptoKey> {
    if (!options.secret)
      throw new Error('this process has no key to sign tokens with; mount auth where auth.key_file can be read')
    return await sealingKeyOf(options.secret)
  }

  async function makeKey(sealing: CryptoKey): Promise<KeyRow> {
    const made = await newKey(sealing)
    return await metadata.write(async (sql) => {
      // Of processes that start together one makes the key.
      const other = await newestKey(sql, now() - rotateMs)
      if (other) return other
      return await insertKey(sql, made)
    })
  }

  async function newKey(sealing: CryptoKey): Promise<NewKey> {
    const pair = await makeTokenKeyPair()
    const kid = newId().replaceAll('-', '')
    return { kid, publicJwk: JSON.stringify(pair.publicJwk), sealed: await seal(sealing, pair.privateJwk, kid) }
  }

  async function insertKey(sql: Sql, { kid, publicJwk, sealed }: NewKey): Promise<KeyRow> {
    const createdAt = now()
    await sql.run(`INSERT INTO signing_keys(kid, public_jwk, private_sealed, created_at) VALUES (?, ?, ?, ?)`, [
      kid,
      publicJwk,
      sealed,
      createdAt,
    ])
    return { kid, sealed, createdAt }
  }

  return {
    ttlSeconds,
    async sign(claims) {
      const { kid, key } = await signingKey()
      const seconds = Math.floor(now() / 1000)
      return await signRegistryToken(
        { cid: claims.cid, cver: claims.cver, access: claims.access },
        { kid, key, audience, subject: claims.sub, seconds, ttlSeconds, id: newId() },
      )
    },
    async rotate(store) {
      const made = await newKey(await sealingKey())
      await store(made.kid, async (sql) => void (await insertKey(sql, made)))
      signing = undefined
      return made.kid
    },
    async verify(token) {
      const known = verified.get(token)
      if (known) {
        if (known.exp * 1000 > now()) return known
        verified.delete(token)
        return undefined
      }
      if (token.length > 16_384) return undefined
      const claims = await check(token)
      if (!claims) return undefined
      if (verified.size >= rememberedTokens)
        for (const old of [...verified.keys()].slice(0, rememberedTokens / 10)) verified.delete(old)
      verified.set(token, claims)
      return claims
    },
  }

  async function check(token: string): Promise<TokenClaims | undefined> {
    const claims = await verifyRegistryToken(token, publicKey, { audience, ttlSeconds, now: now() })
    if (!claims || typeof claims.cid !== 'number' || typeof claims.cver !== 'number' || !Array.isArray(claims.access))
      return undefined
    return claims as unknown as TokenClaims
  }
}

interface NewKey {
  kid: string
  publicJwk: string
  sealed: Uint8Array<ArrayBuffer>
}

interface KeyRow {
  kid: string
  sealed: Uint8Array<ArrayBuffer>
  createdAt: number
}

async function newestKey(sql: Sql, notBefore: number): Promise<KeyRow | undefined> {
  const rows = await sql.all<KeyRow>(
    `SELECT kid, private_sealed AS sealed, created_at AS createdAt FROM signing_keys WHERE created_at > ? ORDER BY created_at DESC, kid LIMIT 1`,
    [notBefore],
  )
  return rows[0]
}
