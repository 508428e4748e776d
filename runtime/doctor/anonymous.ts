import { type Answer, ask, askAnyhow, certificateOf, isRefusal, type Lost, orLost, type Public } from './ask.ts'
import type { Find } from './finding.ts'

const caddyHost = 'remove header_up Host, or header_up Host {http.request.hostport}'
const soonMs = 14 * 86_400_000
const clockMs = 60_000
const earlyMs = 4_000

/** Everything about the public path that shows without a login. Errors: those of the connection, where the first request is not answered. */
export async function examineAnonymously(to: Public, find: Find): Promise<void> {
  const ping = await ask(to, '/v2/')
  if (to.url.protocol === 'https:') await orLost(certificate(to, find), find)
  clock(Date.parse(ping.headers.date ?? ''), find)
  if (!challenge(to, ping, find)) return
  const checks = [tokenClock, authorization, paths, largeHeaders, refusals, methods, bodyCap, requestBuffering]
  await Promise.all(checks.map((check) => orLost(check(to, find), find)))
}

async function certificate(to: Public, find: Find): Promise<void> {
  const { problem, validTo } = await certificateOf(to)
  if (problem !== undefined)
    find({
      what: 'certificate',
      severity: 'wrong',
      says: `clients do not trust the certificate (${problem}): the chain is incomplete, the name is another, or the authority is private`,
      cures: {
        nginx: 'ssl_certificate <the certificate, then the intermediate ones, in one file>;',
        caddy: 'tls <the certificate with its intermediate ones> <key>',
        mcr: 'with a private authority: give clients its certificate, and the doctor --ca-cert',
      },
    })
  if (validTo - Date.now() < soonMs)
    find({
      what: 'certificate-ends',
      severity: 'wrong',
      says: `the certificate ends ${new Date(validTo).toISOString()}`,
      cures: { nginx: 'renew the file of ssl_certificate and reload', caddy: 'renew the file of tls and reload' },
    })
}

/** A proxy writes a Date of its own; when a token was made is the registry's word. */
async function tokenClock(to: Public, find: Find): Promise<void> {
  const { status, body } = await ask(to, '/v2/token')
  const claims = status === 200 ? /"token":"[\w-]+\.([\w-]+)\./.exec(body.toString())?.[1] : undefined
  const made = /"iat":(\d+)/.exec(Buffer.from(claims ?? '', 'base64url').toString())?.[1]
  if (made !== undefined) clock(Number(made) * 1000, find)
}

/** `there` is in ms; NaN is unknown. */
function clock(there: number, find: Find): void {
  const off = Math.abs(there - Date.now())
  if (Number.isNaN(there) || off < clockMs) return
  find({
    what: 'clock',
    severity: 'wrong',
    says: `the clocks here and there differ by ${Math.round(off / 1000)} s: tokens live five minutes`,
    cures: {
      nginx: 'no Date of your own; set the machine’s clock (systemd-timesyncd)',
      caddy: 'no header Date of your own; set the machine’s clock',
      mcr: 'run a time service on the registry’s machine',
    },
  })
}

/** Whether what answers is a registry that can be looked at further. */
function challenge(to: Public, { status, headers }: Answer, find: Find): boolean {
  const value = headers['www-authenticate']
  if (status === 421) {
    find({
      what: 'host',
      severity: 'wrong',
      says: 'the registry does not know that it is called by this name: the proxy does not say so, or is not trusted',
      cures: {
        nginx: 'proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Host $http_host;',
        caddy: caddyHost,
        mcr: `server.public_url = "${to.url.origin}", and server.trusted_proxies = ["<address of the proxy>"] (a unix socket needs none)`,
      },
    })
    return false
  }
  const realm = /realm="([^"]*)"/.exec(value ?? '')?.[1]
  if (status !== 401 || realm === undefined || !/^Bearer /.test(value ?? '') || / Basic /i.test(value ?? '')) {
    find({
      what: 'challenge',
      severity: 'wrong',
      says: `GET /v2/ without a login answers ${status}${value === undefined ? ' without WWW-Authenticate' : ` with ${value}`}, not 401 with one Bearer challenge: clients cannot log in`,
      cures: {
        nginx:
          'no auth_basic, no proxy_hide_header WWW-Authenticate, no return or rewrite for /v2/; location / { proxy_pass http://<registry>; }',
        caddy: 'no basicauth and no header -WWW-Authenticate for /v2/*; reverse_proxy <registry>',
      },
    })
    return status === 401 && realm !== undefined
  }
  const named = URL.canParse(realm) ? new URL(realm) : undefined
  if (named?.hostname !== to.url.hostname || named.port !== to.url.port)
    find({
      what: 'host',
      severity: 'wrong',
      says: `clients are sent to ${realm} for a token, not to ${to.url.host}`,
      cures: {
        nginx: 'proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Host $http_host; (not $host, which has no port)',
        caddy: caddyHost,
        mcr: `server.public_url, if set, must be ${to.url.origin}`,
      },
    })
  if (named && named.protocol !== to.url.protocol)
    find({
      what: 'scheme',
      severity: 'wrong',
      says: `clients are sent to ${realm} for a token: the registry does not know that it is reached by ${to.url.protocol.slice(0, -1)}`,
      cures: {
        nginx: 'proxy_set_header X-Forwarded-Proto $scheme;',
        caddy: 'remove header_up X-Forwarded-Proto',
        mcr: `server.trusted_proxies = ["<address of the proxy>"], or server.public_url = "${to.url.origin}"`,
      },
    })
  return true
}

async function authorization(to: Public, find: Find): Promise<void> {
  const { headers } = await ask(to, '/v2/', { headers: { authorization: 'Bearer mcr-doctor' } })
  if (/error="invalid_token"/.test(headers['www-authenticate'] ?? '')) return
  find({
    what: 'authorization',
    severity: 'wrong',
    says: 'a token that was sent did not arrive: the Authorization header is lost on the way',
    cures: {
      nginx: 'remove proxy_set_header Authorization "…"; and auth_basic (it keeps the header for itself)',
      caddy: 'remove header_up -Authorization and basicauth',
    },
  })
}

/** The registry refuses these before anything else; what answers otherwise has read another path. */
async function paths(to: Public, find: Find): Promise<void> {
  for (const [target, how] of [
    ['/v2/mcr%2Fdoctor/tags/list', 'decoded'],
    ['/v2/mcr//doctor/tags/list', 'merged'],
    ['/v2/mcr/./doctor/tags/list', 'shortened'],
  ]) {
    const { status } = await askAnyhow(to, target as string, {})
    if (status === 400) continue
    find({
      what: 'path',
      severity: 'wrong',
      says: `a path arrives ${how} (${target} answers ${status}, not 400): the registry must see paths as they were sent`,
      cures: {
        nginx: 'proxy_pass http://<registry>; without a slash or path behind it, no rewrite, and merge_slashes off;',
        caddy: 'no uri or rewrite directive for /v2/*',
      },
    })
    return
  }
}

async function largeHeaders(to: Public, find: Find): Promise<void> {
  const range = `bytes=${Array.from({ length: 1024 }, (_, index) => `${1_000_000_000 + index * 100}-${1_000_000_050 + index * 100}`).join(',')}`
  const { status } = await askAnyhow(to, '/v2/', { headers: { range } })
  if (status === 401) return
  find({
    what: 'header-size',
    severity: 'wrong',
    says: `a request with a header of ${Math.round(range.length / 1024)} KiB answers ${status}: partial pulls ask for 1,024 ranges`,
    cures: { nginx: 'large_client_header_buffers 8 64k;', caddy: 'servers { max_header_size 64KB }' },
  })
}

async function refusals(to: Public, find: Find): Promise<void> {
  const answer = await ask(to, '/mcr-doctor/nothing', { headers: { 'accept-encoding': 'gzip, zstd, br' } })
  const { 'content-encoding': encoding, 'content-length': length } = answer.headers
  if (encoding !== undefined || length === undefined)
    find({
      what: 'compression',
      severity: 'wrong',
      says: `answers are ${encoding === undefined ? 'sent without Content-Length' : `compressed (${encoding})`}: clients take Content-Length for the size`,
      cures: { nginx: 'gzip off; (and chunked_transfer_encoding as it is by default)', caddy: 'remove encode for this site' },
    })
  else if (!isRefusal(answer))
    find({
      what: 'error-pages',
      severity: 'wrong',
      says: `a refusal arrives as ${answer.headers['content-type'] ?? 'nothing'} (${answer.status}): clients show and decide by the registry’s own`,
      cures: { nginx: 'proxy_intercept_errors off;', caddy: 'no handle_response for errors of the registry' },
    })
}

async function methods(to: Public, find: Find): Promise<void> {
  const target = `/v2/${to.repository}/blobs/uploads/00000000-0000-4000-8000-000000000000`
  for (const method of ['PATCH', 'PUT', 'DELETE', 'HEAD']) {
    const { status } = await askAnyhow(to, target, { method })
    if (status === 401) continue
    find({
      what: 'method',
      severity: 'wrong',
      says: `${method} does not reach the registry (${status}, not 401)`,
      cures: {
        nginx: 'remove limit_except and conditions on $request_method',
        caddy: 'no method matcher in front of reverse_proxy',
      },
    })
    return
  }
}

const sizes: readonly [bytes: number, name: string][] = [
  [2 * 2 ** 20, '2 MiB'],
  [2 ** 26, '64 MiB'],
  [2 ** 30, '1 GiB'],
  [2 ** 33, '8 GiB'],
  [100 * 2 ** 30, '100 GiB'],
]

/** Announced, not sent: whoever has a limit says so at once, and the registry itself asks for a login first. */
async function bodyCap(to: Public, find: Find): Promise<void> {
  for (const [bytes, name] of sizes) {
    const answer = await ask(to, `/v2/${to.repository}/blobs/uploads/`, {
      method: 'POST',
      body: { pieces: [Buffer.from('x')], open: bytes },
      timeoutMs: earlyMs / 4,
    }).catch((error: Lost) => error)
    // That nothing comes in a moment is no refusal: a proxy that gathers bodies waits for this one.
    const refused = answer instanceof Error ? answer.code !== 'ETIMEDOUT' : answer.status === 413
    if (!refused) continue
    const how = answer instanceof Error ? `cut off: ${answer.message}` : 'refused with 413'
    find({ what: 'body-cap', severity: 'wrong', says: `a body of ${name} is ${how}`, cures: bodyCures })
    return
  }
}

export const bodyCures = { nginx: 'client_max_body_size 0;', caddy: 'remove request_body { max_size … }' }

/** The registry refuses an upload without a login as soon as it begins; through a proxy that gathers the body first it cannot. */
async function requestBuffering(to: Public, find: Find): Promise<void> {
  const pieces = Array.from({ length: 60 }, () => Buffer.alloc(64, 'x'))
  const answer = await ask(to, `/v2/${to.repository}/blobs/uploads/`, {
    method: 'POST',
    // A megabyte: what the smallest limits let pass.
    body: { pieces, pauseMs: 100, open: 1_000_000 },
    timeoutMs: earlyMs,
  }).catch((error: Lost) => error)
  // One that ends before was not gathered; where it is cut for its body, bodyCap has found that.
  if (!(answer instanceof Error) || answer.code !== 'ETIMEDOUT') return
  find({
    what: 'request-buffering',
    severity: 'wrong',
    says: 'the proxy gathers the whole body of an upload before it passes it on: layers are written twice, and wait',
    cures: {
      nginx: 'proxy_request_buffering off; proxy_http_version 1.1;',
      caddy: 'remove request_buffers (buffer_requests) of reverse_proxy',
    },
  })
}
