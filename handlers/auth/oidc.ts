import { finishBrowserLogin, startBrowserLogin } from '../../lib/auth/browser-login.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'

const start = endpoint({
  spec: 'oidc',
  method: 'GET',
  path: '/auth/oidc/sso/start',
  action: 'public',
  errors: ['NOT_FOUND', 'INVALID', 'UNAVAILABLE'],
  needs: ['metadata', 'browserLogins'],
  handle: ({ query, exchange }, ctx) => startBrowserLogin(ctx, exchange, query),
})

const callback = endpoint({
  spec: 'oidc',
  method: 'GET',
  path: '/auth/oidc/sso/callback',
  action: 'public',
  errors: ['NOT_FOUND', 'INVALID', 'UNAUTHORIZED', 'UNAVAILABLE'],
  needs: ['metadata', 'browserLogins'],
  handle: ({ request, query, exchange }, ctx) => finishBrowserLogin(ctx, exchange, query, request.headers.get('cookie')),
})

/** People log in through an OpenID Connect issuer in a browser: authorization code with PKCE, by redirects only. */
export default handler(start, callback)
