import { keep, type Told } from './keep.ts'

/** `REFUSED`: the issuer says no, or what it says does not hold. `UNAVAILABLE`: no verdict at all. */
export type OidcFailure = 'OIDC_REFUSED' | 'OIDC_UNAVAILABLE'

/** Checks a token's signature and claims against keys. Shape: its claims, or undefined. */
export type VerifyIdToken = (
  token: string,
  jwks: object,
  options: { issuer: string; audience: readonly string[]; algorithms: readonly string[] },
) => Promise<Record<string, unknown> | undefined>

interface Metadata {
  authorizationEndpoint: string | undefined
  tokenEndpoint: string | undefined
  jwksUri: string
  algorithms: readonly string[]
}

/** One OpenID Connect issuer, as its relying party sees it. */
export interface OidcIssuer {
  /** The claims of an ID token of this issuer for one of these audiences, valid now; undefined otherwise. Errors: OIDC_UNAVAILABLE. */
  verifyIdToken(token: string, audiences: readonly string[]): Promise<Record<string, unknown> | undefined>
  /** Where to send a browser: authorization code with PKCE. Errors: OIDC_UNAVAILABLE. */
  authorizationUrl(options: {
    clientId: string
    redirectUri: string
    state: string
    nonce: string
    codeChallenge: string
  }): Promise<string>
  /** The claims of the ID token that a code stands for. Errors: OIDC_REFUSED, OIDC_UNAVAILABLE. */
  exchangeCode(options: {
    clientId: string
    clientSecret?: string
    redirectUri: string
    code: string
    codeVerifier: string
    nonce: string
  }): Promise<Record<string, unknown>>
}

/** Signatures with a public key only: none, and the HS family, would let anybody who has read the keys sign. */
const acceptable = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']
const metadataMs = 3_600_000
const keysMs = 10 * 60_000
const answerBytes = 256 * 1024

export function oidcFailure(code: OidcFailure, message: string): Error & { code: OidcFailure } {
  return Object.assign(new Error(message), { code })
}

export function isOidcFailure(error: unknown): error is Error & { code: OidcFailure } {
  const code = (error as { code?: unknown } | null)?.code
  return code === 'OIDC_REFUSED' || code === 'OIDC_UNAVAILABLE'
}

/**
 * An issuer by its address, whose metadata must name exactly that address. Metadata are kept an hour, keys ten minutes; while the issuer is
 * down the last good ones count, also those that another process was told. No redirect is followed, answers end at 256 KiB and after `timeoutMs`; no secret stands in an error.
 * Source: OpenID Connect Discovery 1.0, Core 1.0 §3.1; RFC 7636.
 */
export function createOidcIssuer(options: {
  issuer: string
  fetch: (url: string, init?: RequestInit) => Promise<Response>
  now: () => number
  verify: VerifyIdToken
  /** What it told any process, by what it is about. */
  told?: <T>(what: 'metadata' | 'keys') => Told<T>
  timeoutMs?: number
}): OidcIssuer {
  const { issuer, now, verify } = options
  const metadata = keep(() => loaded(loadMetadata), now, options.told?.('metadata'))
  const keys = keep(() => loaded(loadKeys), now, options.told?.('keys'))

  async function ask(url: string, init: RequestInit = {}): Promise<Record<string, unknown>> {
    let response: Response
    let text: string
    secureUrl(url)
    try {
      response = await options.fetch(url, {
        ...init,
        redirect: 'manual',
        signal: AbortSignal.timeout(options.timeoutMs ?? 10_000),
      })
      text = await boundedText(response)
    } catch {
      throw oidcFailure('OIDC_UNAVAILABLE', `${new URL(url).host} cannot be reached`)
    }
    if (response.status >= 400 && response.status < 500 && response.status !== 429)
      throw oidcFailure('OIDC_REFUSED', `${new URL(url).host} answered ${response.status}`)
    try {
      if (response.status !== 200) throw new Error()
      const answer = JSON.parse(text) as unknown
      if (typeof answer !== 'object' || answer === null) throw new Error()
      return answer as Record<string, unknown>
    } catch {
      throw oidcFailure('OIDC_UNAVAILABLE', `${new URL(url).host} answered ${response.status}, and not as an issuer does`)
    }
  }

  async function loadMetadata(): Promise<Metadata> {
    const found = await ask(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`)
    if (found.issuer !== issuer) throw oidcFailure('OIDC_UNAVAILABLE', 'the metadata are of another issuer')
    const algorithms = Array.isArray(found.id_token_signing_alg_values_supported)
      ? found.id_token_signing_alg_values_supported
      : ['RS256']
    const optional = (value: unknown) => (value === undefined ? undefined : secureUrl(value))
    return {
      authorizationEndpoint: optional(found.authorization_endpoint),
      tokenEndpoint: optional(found.token_endpoint),
      jwksUri: secureUrl(found.jwks_uri),
      algorithms: acceptable.filter((algorithm) => algorithms.includes(algorithm)),
    }
  }

  async function loadKeys(): Promise<{ keys: { kid?: string }[] }> {
    const { keys } = await ask((await describe()).jwksUri)
    if (!Array.isArray(keys)) throw oidcFailure('OIDC_UNAVAILABLE', 'the keys are no JWK set')
    return { keys: keys.filter((key) => typeof key === 'object' && key !== null) }
  }

  const describe = () => metadata((_, age) => age < metadataMs)
  const keysFor = (kid: unknown) =>
    keys(({ keys }, age) => age <= keysMs && keys.some((key) => kid === undefined || key.kid === kid))

  async function verifyIdToken(token: string, audience: readonly string[]): Promise<Record<string, unknown> | undefined> {
    if (token.length > 16_384) return undefined
    const { algorithms } = await describe()
    const claims = await verify(token, await keysFor(headerOf(token)?.kid), { issuer, audience, algorithms })
    if (!claims) return undefined
    // Core §3.1.3.7: of several audiences one is whom the token was made for, and that must be us.
    const named = [claims.aud].flat()
    const ours = named.length < 2 || named.some((name) => name === claims.azp && audience.includes(String(name)))
    return ours ? claims : undefined
  }

  return {
    verifyIdToken,
    async authorizationUrl({ clientId, redirectUri, state, nonce, codeChallenge }) {
      const url = new URL(named((await describe()).authorizationEndpoint))
      const parameters = {
        response_type: 'code',
        scope: 'openid profile email',
        client_id: clientId,
        redirect_uri: redirectUri,
        state,
        nonce,
        code_challenge: codeChallenge,
        code_challenge_method: 'S256',
      }
      for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
      return url.href
    },
    async exchangeCode({ clientId, clientSecret, redirectUri, code, codeVerifier, nonce }) {
      const form = new URLSearchParams({
        grant_type: 'authorization_code',
        code,
        redirect_uri: redirectUri,
        code_verifier: codeVerifier,
      })
      if (clientSecret === undefined) form.set('client_id', clientId)
      const basic = btoa(`${encodeURIComponent(clientId)}:${encodeURIComponent(clientSecret ?? '')}`)
      const answer = await ask(named((await describe()).tokenEndpoint), {
        method: 'POST',
        body: form.toString(),
        headers: {
          'content-type': 'application/x-www-form-urlencoded',
          accept: 'application/json',
          ...(clientSecret === undefined ? {} : { authorization: `Basic ${basic}` }),
        },
      })
      const claims = typeof answer.id_token === 'string' ? await verifyIdToken(answer.id_token, [clientId]) : undefined
      if (!claims || claims.nonce !== nonce || typeof claims.sub !== 'string')
        throw oidcFailure('OIDC_REFUSED', 'the ID token does not hold')
      return claims
    },
  }
}

/** A refusal of metadata or keys is no verdict about a token. */
async function loaded<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    throw isOidcFailure(error) ? oidcFailure('OIDC_UNAVAILABLE', error.message) : error
  }
}

function named(endpoint: string | undefined): string {
  if (endpoint === undefined)
    throw oidcFailure('OIDC_UNAVAILABLE', 'the issuer logs nobody in: its metadata name no such address')
  return endpoint
}

function secureUrl(value: unknown): string {
  const url = typeof value === 'string' && URL.canParse(value) ? new URL(value) : undefined
  const loopback = url !== undefined && /^(localhost|127\.0\.0\.1|\[::1\])$/.test(url.hostname)
  if (!url || !(url.protocol === 'https:' || (url.protocol === 'http:' && loopback)))
    throw oidcFailure('OIDC_UNAVAILABLE', 'an address of the issuer is not https')
  return url.href
}

function headerOf(token: string): { kid?: unknown } | undefined {
  try {
    return JSON.parse(atob((token.split('.')[0] ?? '').replaceAll('-', '+').replaceAll('_', '/'))) as { kid?: unknown }
  } catch {
    return undefined
  }
}

async function boundedText(response: Response): Promise<string> {
  const reader = response.body?.getReader()
  const decoder = new TextDecoder()
  let text = ''
  let size = 0
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined }
    if (done || !value) return text + decoder.decode()
    size += value.byteLength
    if (size > answerBytes) {
      await reader?.cancel()
      throw new Error('too large')
    }
    text += decoder.decode(value, { stream: true })
  }
}
