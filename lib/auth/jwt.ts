import {
  createLocalJWKSet,
  decodeJwt,
  errors,
  exportJWK,
  generateKeyPair,
  importJWK,
  type JSONWebKeySet,
  type JWK,
  jwtVerify,
  SignJWT,
} from 'jose'

/**
 * The one module that knows jose: one way to sign, and three closed shapes of verification (S-03). Every part of a shape is demanded, and no
 * key or address is ever taken from a token.
 */

const algorithm = 'EdDSA'
const type = 'at+jwt'
/** Clocks of one deployment may differ by this many seconds. */
const clockTolerance = 30

export type JwtKey = CryptoKey

/** A new pair for registry tokens, as JWKs. */
export async function makeTokenKeyPair(): Promise<{ publicJwk: JsonWebKey; privateJwk: JsonWebKey }> {
  const { publicKey, privateKey } = await generateKeyPair(algorithm, { extractable: true })
  return { publicJwk: (await exportJWK(publicKey)) as JsonWebKey, privateJwk: (await exportJWK(privateKey)) as JsonWebKey }
}

export async function importTokenKey(jwk: JsonWebKey): Promise<JwtKey> {
  return (await importJWK(jwk as JWK, algorithm)) as CryptoKey
}

/** Signs a registry token. Times in seconds since 1970. */
export async function signRegistryToken(
  claims: Record<string, unknown>,
  options: { kid: string; key: JwtKey; audience: string; subject: string; seconds: number; ttlSeconds: number; id: string },
): Promise<string> {
  const { kid, key, audience, subject, seconds, ttlSeconds, id } = options
  return await new SignJWT(claims)
    .setProtectedHeader({ alg: algorithm, typ: type, kid })
    .setIssuer(audience)
    .setAudience(audience)
    .setSubject(subject)
    .setIssuedAt(seconds)
    .setNotBefore(seconds)
    .setExpirationTime(seconds + ttlSeconds)
    .setJti(id)
    .sign(key)
}

/** The claims of a registry token of ours, valid at `now` (ms); undefined for every other. Errors: what `keyOf` throws as DB_…. */
export async function verifyRegistryToken(
  token: string,
  keyOf: (kid: unknown) => Promise<JwtKey>,
  options: { audience: string; ttlSeconds: number; now: number },
): Promise<Record<string, unknown> | undefined> {
  return await claimsOf(async () => {
    const { payload } = await jwtVerify(token, (header) => keyOf(header.kid), {
      algorithms: [algorithm],
      issuer: options.audience,
      audience: options.audience,
      typ: type,
      requiredClaims: ['exp', 'iat', 'nbf', 'jti', 'sub', 'cid', 'cver', 'access'],
      maxTokenAge: options.ttlSeconds,
      clockTolerance,
      currentDate: new Date(options.now),
    })
    return payload
  })
}

/** The claims of a token of the remote identity service, by its key, valid at `now` (ms); undefined for every other. */
export async function verifyMciasToken(
  token: string,
  jwk: JsonWebKey,
  options: { issuer: string; now: number },
): Promise<Record<string, unknown> | undefined> {
  return await claimsOf(async () => {
    const key = await importJWK({ ...(jwk as JWK), alg: algorithm }, algorithm)
    const { payload } = await jwtVerify(token, key, {
      algorithms: [algorithm],
      issuer: options.issuer,
      requiredClaims: ['exp', 'iat', 'jti', 'sub'],
      clockTolerance,
      currentDate: new Date(options.now),
    })
    return payload
  })
}

/** The claims of an ID token by the issuer's keys, for one of the audiences, valid at `now` (ms); undefined for every other. */
export async function verifyIdToken(
  token: string,
  jwks: object,
  options: { issuer: string; audience: readonly string[]; algorithms: readonly string[]; now: number },
): Promise<Record<string, unknown> | undefined> {
  return await claimsOf(async () => {
    const { payload } = await jwtVerify(token, createLocalJWKSet(jwks as JSONWebKeySet), {
      algorithms: [...options.algorithms],
      issuer: options.issuer,
      audience: [...options.audience],
      requiredClaims: ['exp', 'iat', 'sub'],
      clockTolerance,
      currentDate: new Date(options.now),
    })
    return payload
  })
}

/** Who a token says it is from, before anything of it is believed: only to choose which shape it must have. */
export function claimedIssuer(token: string): string | undefined {
  try {
    return decodeJwt(token).iss
  } catch {
    return undefined
  }
}

async function claimsOf(verify: () => Promise<object>): Promise<Record<string, unknown> | undefined> {
  try {
    return (await verify()) as Record<string, unknown>
  } catch (error) {
    // A database that does not answer is no verdict about the token.
    if (!(error instanceof errors.JOSEError) && (error as { code?: string }).code?.startsWith('DB_')) throw error
    return undefined
  }
}
