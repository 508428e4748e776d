import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose'
import Provider from 'oidc-provider'
import { nativeFetch } from './assets.ts'

export interface OidcServer {
  issuer: string
  clientId: string
  clientSecret: string
  /** An ID token as a CI system gives one to a job, by the issuer's own key unless `foreign`. */
  token(claims: Record<string, unknown>, options?: { seconds?: number; foreign?: true; issuer?: string }): Promise<string>
  /** Walks a login in a browser that has no script: from the authorization URL to the redirect back. Shape: that redirect's address. */
  walk(url: string, account: string): Promise<string>
  stop(): Promise<void>
  start(): Promise<void>
}

/** A real issuer on loopback: oidc-provider with one client, accounts by whatever name logs in, and `groups` of the name. */
export async function startOidc(redirectUri: string): Promise<OidcServer> {
  const server = createServer()
  const listen = (port: number) => new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  await listen(0)
  const { port } = server.address() as AddressInfo
  const issuer = `http://127.0.0.1:${port}`
  const pair = await generateKeyPair('RS256', { extractable: true })
  const other = await generateKeyPair('RS256', { extractable: true })
  const jwk = { ...(await exportJWK(pair.privateKey)), kid: 'issuer-key', alg: 'RS256', use: 'sig' }
  const clientId = 'mcr'
  const clientSecret = 'a secret of the client, long enough'
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        redirect_uris: [redirectUri],
        response_types: ['code'],
        grant_types: ['authorization_code'],
      },
    ],
    jwks: { keys: [jwk as never] },
    pkce: { required: () => true },
    cookies: { keys: ['only for tests'] },
    claims: { openid: ['sub', 'groups', 'preferred_username'] },
    conformIdTokenClaims: false,
    findAccount: async (_ctx: unknown, id: string) => ({
      accountId: id,
      claims: async () => ({
        sub: id,
        preferred_username: `${id}@example`,
        groups: id === 'boss' ? ['admin'] : ['reader', 'NOT a role'],
      }),
    }),
  })
  const handle = provider.callback()
  server.on('request', handle)
  return {
    issuer,
    clientId,
    clientSecret,
    async token(claims, { seconds = 300, foreign, issuer: named = issuer } = {}) {
      const now = Math.floor(Date.now() / 1000)
      return await new SignJWT(claims as JWK)
        .setProtectedHeader({ alg: 'RS256', kid: 'issuer-key', typ: 'JWT' })
        .setIssuer(named)
        .setIssuedAt(now - 1)
        .setExpirationTime(now + seconds)
        .sign(foreign ? other.privateKey : pair.privateKey)
    },
    async walk(url, account) {
      const jar = new Map<string, string>()
      let at = url
      let form: string | undefined
      for (let step = 0; step < 20; step++) {
        if (at.startsWith(redirectUri)) return at
        const response = await nativeFetch(at, {
          method: form === undefined ? 'GET' : 'POST',
          body: form,
          redirect: 'manual',
          headers: {
            cookie: [...jar].map(([name, value]) => `${name}=${value}`).join('; '),
            ...(form === undefined ? {} : { 'content-type': 'application/x-www-form-urlencoded' }),
          },
        })
        form = undefined
        for (const line of response.headers.getSetCookie()) {
          const [, name, value] = /^([^=]+)=([^;]*)/.exec(line) as unknown as [string, string, string]
          if (value === '') jar.delete(name)
          else jar.set(name, value)
        }
        const location = response.headers.get('location')
        const page = await response.text()
        if (location !== null) at = new URL(location, at).href
        else if (page.includes('name="login"')) {
          at = new URL(/action="([^"]+)"/.exec(page)?.[1] ?? '', at).href
          form = `prompt=login&login=${account}&password=any`
        } else if (page.includes('value="consent"')) {
          at = new URL(/action="([^"]+)"/.exec(page)?.[1] ?? '', at).href
          form = 'prompt=consent'
        } else throw new Error(`the issuer answered ${response.status} at ${at}: ${page.slice(0, 300)}`)
      }
      throw new Error('the issuer redirects for ever')
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
    start: () => listen(port),
  }
}
