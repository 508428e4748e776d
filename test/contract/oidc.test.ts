import assert from 'node:assert/strict'
import { createHmac, createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { verifyIdToken } from '../../lib/auth/jwt.ts'
import { createOidcIssuer, isOidcFailure, type OidcFailure } from '../../lib/auth/oidc.ts'
import { pkce } from '../../lib/auth/pkce.ts'
import { startOidc } from '../support/oidc.ts'

const redirectUri = 'http://127.0.0.1:9/callback'
const oidc = await startOidc(redirectUri)
after(() => oidc.stop())
const { clientId, clientSecret } = oidc
const wellKnown = `${oidc.issuer}/.well-known/openid-configuration`
const job = { sub: 'repo:team/app', aud: 'mcr.example', repository: 'team/app', ref: 'refs/tags/v1' }
const audiences = ['mcr.example']

type Options = Parameters<typeof createOidcIssuer>[0]
type Fetch = Options['fetch']
type Jwk = JsonWebKey & { kid: string }

/** A relying party with the verification of production, a clock of its own, and a list of what it asked for. */
function open(overrides: Partial<Pick<Options, 'issuer' | 'fetch' | 'timeoutMs'>> = {}) {
  const clock = { ahead: 0 }
  const asked: string[] = []
  const now = () => Date.now() + clock.ahead
  const ask: Fetch = overrides.fetch ?? ((url, init) => fetch(url, init))
  const party = createOidcIssuer({
    issuer: oidc.issuer,
    now,
    verify: (token, jwks, options) => verifyIdToken(token, jwks, { ...options, now: now() }),
    ...overrides,
    fetch: (url, init) => {
      asked.push(url)
      return ask(url, init)
    },
  })
  return { party, asked, clock }
}

/** The real issuer, but for the addresses that answer something else. */
const but =
  (answers: Record<string, () => Response>): Fetch =>
  (url, init) => {
    const answer = answers[url]
    return answer ? Promise.resolve(answer()) : fetch(url, init)
  }

const metadata = (await (await fetch(wellKnown)).json()) as Record<string, unknown> & { jwks_uri: string; token_endpoint: string }
const described = (changes: Record<string, unknown>) => but({ [wellKnown]: () => Response.json({ ...metadata, ...changes }) })

/** It fails by this code, and nothing that could be logged of the failure holds a secret. */
async function fails(work: Promise<unknown>, code: OidcFailure, ...secrets: string[]): Promise<void> {
  const error = await work.then(
    () => assert.fail(`no ${code}`),
    (thrown: unknown) => thrown,
  )
  assert.ok(isOidcFailure(error), String(error))
  assert.equal(error.code, code, error.message)
  assert.equal(error.cause, undefined)
  for (const secret of secrets) assert.ok(!`${error.stack}${JSON.stringify(error)}`.includes(secret), error.message)
}

const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const payloadOf = (token: string) => token.split('.')[1] as string

/** A token with a header that no honest issuer writes. */
function forge(header: object, payload: string, signer: (text: string) => Buffer): string {
  const text = `${encode(header)}.${payload}`
  return `${text}.${signer(text).toString('base64url')}`
}

async function login(party: ReturnType<typeof open>['party'], nonce: string) {
  const { verifier, challenge } = await pkce()
  const url = await party.authorizationUrl({ clientId, redirectUri, state: 'a state', nonce, codeChallenge: challenge })
  const back = new URL(await oidc.walk(url, 'alice'))
  return { verifier, url: new URL(url), back, code: back.searchParams.get('code') as string }
}

test('metadata and keys are asked for once, and again when they are old', async () => {
  const { party, asked, clock } = open()
  const token = await oidc.token(job, { seconds: 7200 })
  for (let time = 0; time < 3; time++) assert.ok(await party.verifyIdToken(token, audiences))
  assert.deepEqual(asked, [wellKnown, metadata.jwks_uri])
  clock.ahead = 11 * 60_000
  assert.ok(await party.verifyIdToken(token, audiences))
  assert.deepEqual(asked, [wellKnown, metadata.jwks_uri, metadata.jwks_uri])
  clock.ahead = 61 * 60_000
  assert.ok(await party.verifyIdToken(token, audiences))
  assert.deepEqual(asked.slice(3).sort(), [wellKnown, metadata.jwks_uri].sort())
})

test('a good token gives its claims, for any one of the audiences', async () => {
  const { party } = open()
  const claims = await party.verifyIdToken(await oidc.token(job), ['someone.else', ...audiences])
  assert.deepEqual([claims?.sub, claims?.repository, claims?.iss], [job.sub, job.repository, oidc.issuer])
  assert.ok(await party.verifyIdToken(await oidc.token({ ...job, aud: ['mcr.example', 'other'], azp: 'mcr.example' }), audiences))
})

test('a token that does not hold in every part gives nothing', async () => {
  const other = await startOidc(redirectUri)
  after(() => other.stop())
  const { party } = open()
  const bad: [what: string, token: string][] = [
    ['another audience', await oidc.token({ ...job, aud: 'someone.else' })],
    ['no audience', await oidc.token({ ...job, aud: undefined })],
    ['no subject', await oidc.token({ ...job, sub: undefined })],
    ['another issuer', await other.token(job)],
    ['an issuer with a slash more', await oidc.token(job, { issuer: `${oidc.issuer}/` })],
    ['expired', await oidc.token(job, { seconds: -60 })],
    ['not valid yet', await oidc.token({ ...job, nbf: Math.floor(Date.now() / 1000) + 600 })],
    ['key of another issuer, with the same id', await other.token(job, { issuer: oidc.issuer })],
    ['several audiences, made for another', await oidc.token({ ...job, aud: ['mcr.example', 'other'], azp: 'other' })],
    ['several audiences, made for one that is not among them', await oidc.token({ ...job, aud: [...audiences, 'x'], azp: 'y' })],
    ['several audiences, made for nobody', await oidc.token({ ...job, aud: ['mcr.example', 'other'] })],
    ['too long', await oidc.token({ ...job, padding: 'x'.repeat(20_000) })],
    ['no token at all', 'x.y.z'],
    ['nothing', ''],
  ]
  for (const [what, token] of bad) assert.equal(await party.verifyIdToken(token, [...audiences, 'y']), undefined, what)
  assert.equal(await party.verifyIdToken(await oidc.token(job), []), undefined, 'no audience of ours')
})

test('a token chooses neither its algorithm nor its key', async () => {
  const { party, asked } = open()
  const good = await oidc.token(job)
  const payload = payloadOf(good)
  const { keys } = (await (await fetch(metadata.jwks_uri)).json()) as { keys: Jwk[] }
  const jwk = keys[0] as Jwk
  const { kid } = jwk
  const pem = createPublicKey({ key: jwk, format: 'jwk' }).export({ type: 'spki', format: 'pem' })
  const own = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const ownJwk = own.publicKey.export({ format: 'jwk' })
  const byOwn = (text: string) => sign('sha256', Buffer.from(text), own.privateKey)
  const byMac = (key: string | Buffer) => (text: string) => createHmac('sha256', key).update(text).digest()
  const unsigned = () => Buffer.alloc(0)
  const bad: [what: string, token: string][] = [
    ['alg none', forge({ alg: 'none', kid }, payload, unsigned)],
    ['alg None', forge({ alg: 'None', kid }, payload, unsigned)],
    ['alg none with the good signature', `${encode({ alg: 'none', kid })}.${payload}.${good.split('.')[2]}`],
    ['no signature', forge({ alg: 'RS256', kid }, payload, unsigned)],
    ['HS256 with the public key as PEM', forge({ alg: 'HS256', kid }, payload, byMac(pem as string))],
    ['HS256 with the public key as JWK', forge({ alg: 'HS256', kid }, payload, byMac(JSON.stringify(jwk)))],
    ['HS256 with the modulus', forge({ alg: 'HS256', kid }, payload, byMac(Buffer.from(jwk.n as string, 'base64url')))],
    ['an embedded key', forge({ alg: 'RS256', kid, jwk: ownJwk }, payload, byOwn)],
    ['an embedded key without a key id', forge({ alg: 'RS256', jwk: ownJwk }, payload, byOwn)],
    ['a key at an address', forge({ alg: 'RS256', kid, jku: 'http://127.0.0.1:9/keys' }, payload, byOwn)],
    ['a certificate', forge({ alg: 'RS256', kid, x5u: 'http://127.0.0.1:9/x5u', x5c: ['AAAA'] }, payload, byOwn)],
    ['a changed payload', good.replace(payload, encode({ ...job, iss: oidc.issuer, iat: 1, exp: 9_999_999_999 }))],
  ]
  for (const [what, token] of bad) assert.equal(await party.verifyIdToken(token, audiences), undefined, what)
  assert.deepEqual([...new Set(asked)].sort(), [wellKnown, metadata.jwks_uri].sort(), 'no address of a token is asked')
  assert.ok(await party.verifyIdToken(good, audiences))
})

test('only algorithms that the issuer names count, and of those only signatures with a public key', async () => {
  const token = await oidc.token(job)
  for (const named of [['ES256'], ['HS256', 'none'], []]) {
    const { party } = open({ fetch: described({ id_token_signing_alg_values_supported: named }) })
    assert.equal(await party.verifyIdToken(token, audiences), undefined, named.join())
  }
  const { party } = open({ fetch: described({ id_token_signing_alg_values_supported: undefined }) })
  assert.ok(await party.verifyIdToken(token, audiences), 'RS256 is what every issuer has')
})

test('a key that is not known is looked for again, once a minute at most', async () => {
  const { keys } = (await (await fetch(metadata.jwks_uri)).json()) as { keys: { kid: string }[] }
  let known: { kid: string }[] = keys.map((key) => ({ ...key, kid: 'the key before' }))
  const { party, asked, clock } = open({ fetch: but({ [metadata.jwks_uri]: () => Response.json({ keys: known }) }) })
  const token = await oidc.token(job)
  const times = () => asked.filter((url) => url === metadata.jwks_uri).length
  for (let time = 0; time < 5; time++) assert.equal(await party.verifyIdToken(token, audiences), undefined)
  assert.equal(times(), 1)
  known = keys
  clock.ahead = 55_000
  assert.equal(await party.verifyIdToken(token, audiences), undefined)
  assert.equal(times(), 1, 'not at the pace of whoever sends such tokens')
  clock.ahead = 61_000
  assert.ok(await party.verifyIdToken(token, audiences), 'the issuer has another key now')
  assert.equal(times(), 2)
})

test('metadata of another issuer, or with addresses that are not https, are believed in nothing', async () => {
  const token = await oidc.token(job)
  for (const changes of [
    { issuer: 'https://issuer.example' },
    { issuer: `${oidc.issuer}/` },
    { issuer: undefined },
    { jwks_uri: 'http://issuer.example/keys' },
    { jwks_uri: 'file:///etc/keys' },
    { jwks_uri: undefined },
    { token_endpoint: 'http://issuer.example/token' },
    { authorization_endpoint: 'http://127.0.0.1.issuer.example/auth' },
  ]) {
    const { party, asked } = open({ fetch: described(changes) })
    await fails(party.verifyIdToken(token, audiences), 'OIDC_UNAVAILABLE', token)
    assert.deepEqual(asked, [wellKnown], JSON.stringify(changes))
  }
})

test('answers that are no answer of an issuer are no verdict', async () => {
  const token = await oidc.token(job)
  const answers: [what: string, answer: () => Response][] = [
    ['a redirect', () => new Response(null, { status: 302, headers: { location: wellKnown } })],
    ['an error of its own', () => Response.json({}, { status: 500 })],
    ['not found', () => Response.json({}, { status: 404 })],
    ['too many questions', () => Response.json({}, { status: 429 })],
    ['null', () => new Response('null')],
    ['no JSON', () => new Response('<html>')],
    ['too much', () => Response.json({ ...metadata, keys: [], padding: 'x'.repeat(300_000) })],
  ]
  for (const [, answer] of answers)
    for (const url of [wellKnown, metadata.jwks_uri]) {
      const { party, asked } = open({ fetch: but({ [url]: answer }) })
      await fails(party.verifyIdToken(token, audiences), 'OIDC_UNAVAILABLE', token)
      assert.equal(asked.at(-1), url, 'nothing is asked after it')
    }
})

test('a redirect is not followed, even to where good metadata are', async () => {
  const server = createServer((_request, response) => response.writeHead(302, { location: wellKnown }).end())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => server.close())
  const { port } = server.address() as AddressInfo
  const { party } = open({ fetch: (url, init) => fetch(url === wellKnown ? `http://127.0.0.1:${port}/` : url, init) })
  await fails(party.verifyIdToken(await oidc.token(job), audiences), 'OIDC_UNAVAILABLE')
})

test('an issuer that logs nobody in is never sent a secret, and one without https is never asked', async () => {
  const { party, asked } = open({ fetch: described({ authorization_endpoint: undefined, token_endpoint: undefined }) })
  assert.ok(await party.verifyIdToken(await oidc.token(job), audiences), 'but its tokens count')
  const before = asked.length
  const login = { clientId, redirectUri, state: 's', nonce: 'n', codeChallenge: 'c' }
  await fails(party.authorizationUrl(login), 'OIDC_UNAVAILABLE')
  const exchange = { clientId, clientSecret, redirectUri, code: 'c0de', codeVerifier: 'v', nonce: 'n' }
  await fails(party.exchangeCode(exchange), 'OIDC_UNAVAILABLE', clientSecret, 'c0de')
  assert.equal(asked.length, before)
  for (const issuer of ['http://issuer.example', 'issuer']) {
    const plain = open({ issuer })
    await fails(plain.party.authorizationUrl(login), 'OIDC_UNAVAILABLE')
    assert.deepEqual(plain.asked, [])
  }
})

test('many tokens at once ask the issuer once, and once a minute while it is down', async () => {
  let down = false
  const { party, asked, clock } = open({
    fetch: (url, init) => (down ? Promise.reject(new TypeError('fetch failed')) : fetch(url, init)),
  })
  const token = await oidc.token(job, { seconds: 7200 })
  const stranger = forge({ alg: 'RS256', kid: 'of nobody' }, payloadOf(token), () => Buffer.from('signature'))
  const many = async (text: string) => {
    asked.length = 0
    for (let round = 0; round < 3; round++)
      await Promise.all(Array.from({ length: 10 }, () => party.verifyIdToken(text, audiences)))
    return asked.length
  }
  assert.equal(await many(token), 2)
  down = true
  clock.ahead = 65_000
  assert.equal(await many(stranger), 1)
  clock.ahead = 12 * 60_000
  assert.equal(await many(token), 1)
  clock.ahead = 65 * 60_000
  assert.equal(await many(token), 2)
})

test('an issuer that does not answer in time is unavailable', async () => {
  const hanging: Fetch = (_url, init) =>
    new Promise((_resolve, reject) => init?.signal?.addEventListener('abort', () => reject(init.signal?.reason)))
  // The signal's timer alone keeps no process alive.
  const alive = setInterval(() => {}, 1000)
  try {
    const { party } = open({ timeoutMs: 50, fetch: hanging })
    const began = performance.now()
    await fails(party.verifyIdToken(await oidc.token(job), audiences), 'OIDC_UNAVAILABLE')
    assert.ok(performance.now() - began < 5000)
  } finally {
    clearInterval(alive)
  }
})

test('a person logs in by a code with PKCE', async () => {
  const { party } = open()
  const { verifier, url, back, code } = await login(party, 'a nonce')
  assert.equal(url.searchParams.get('code_challenge_method'), 'S256')
  assert.equal(url.searchParams.get('response_type'), 'code')
  assert.match(url.searchParams.get('scope') as string, /\bopenid\b/)
  assert.ok(!url.href.includes(verifier), 'the verifier stays here')
  assert.equal(back.searchParams.get('state'), 'a state')
  const exchange = { clientId, clientSecret, redirectUri, code, codeVerifier: verifier, nonce: 'a nonce' }
  const claims = await party.exchangeCode(exchange)
  assert.deepEqual([claims.sub, claims.aud, claims.nonce], ['alice', clientId, 'a nonce'])
  await fails(party.exchangeCode(exchange), 'OIDC_REFUSED', code, verifier, clientSecret)
})

test('a code is refused with another verifier, nonce, secret or address, and no error tells a secret', async () => {
  const wrong: [what: string, changes: object][] = [
    ['verifier', { codeVerifier: (await pkce()).verifier }],
    ['nonce', { nonce: 'another nonce' }],
    ['secret', { clientSecret: 'a secret of somebody else' }],
    ['no secret', { clientSecret: undefined }],
    ['client', { clientId: 'somebody-else' }],
    ['address', { redirectUri: 'http://127.0.0.1:9/elsewhere' }],
    ['code', { code: 'no-code-of-this-issuer' }],
  ]
  for (const [, changes] of wrong) {
    const { party } = open()
    const { verifier, code } = await login(party, 'a nonce')
    const exchange = { clientId, clientSecret, redirectUri, code, codeVerifier: verifier, nonce: 'a nonce', ...changes }
    await fails(party.exchangeCode(exchange), 'OIDC_REFUSED', code, verifier, exchange.codeVerifier, clientSecret)
  }
})

test('the answer to a code is no login without an ID token that holds', async () => {
  const ofAnother = await oidc.token({ ...job, nonce: 'a nonce' })
  for (const answer of [{}, { access_token: 'x' }, { id_token: 7 }, { id_token: 'x.y.z' }, { id_token: ofAnother }]) {
    const { party } = open({ fetch: but({ [metadata.token_endpoint]: () => Response.json(answer) }) })
    const exchange = party.exchangeCode({
      clientId,
      clientSecret,
      redirectUri,
      code: 'c0de',
      codeVerifier: 'v',
      nonce: 'a nonce',
    })
    await fails(exchange, 'OIDC_REFUSED', clientSecret, ofAnother)
  }
  const { party } = open({ fetch: but({ [metadata.token_endpoint]: () => new Response('{}', { status: 503 }) }) })
  const exchange = party.exchangeCode({ clientId, clientSecret, redirectUri, code: 'c0de', codeVerifier: 'v', nonce: 'a nonce' })
  await fails(exchange, 'OIDC_UNAVAILABLE', clientSecret, 'c0de')
})

test('a client authenticates by client_secret_basic, and one without a secret by its name', async () => {
  const sent: { authorization: string | null; form: URLSearchParams }[] = []
  const { party } = open({
    fetch: (url, init) => {
      if (url !== metadata.token_endpoint) return fetch(url, init)
      sent.push({
        authorization: new Headers(init?.headers).get('authorization'),
        form: new URLSearchParams(String(init?.body)),
      })
      return Promise.resolve(Response.json({}))
    },
  })
  const exchange = { clientId: 'a:b', redirectUri, code: 'c', codeVerifier: 'v', nonce: 'n' }
  await fails(party.exchangeCode({ ...exchange, clientSecret: 'ü:+ %' }), 'OIDC_REFUSED')
  await fails(party.exchangeCode(exchange), 'OIDC_REFUSED')
  const [confidential, bare] = sent as [(typeof sent)[0], (typeof sent)[0]]
  const [name, secret] = atob((confidential.authorization as string).slice('Basic '.length)).split(':')
  assert.deepEqual(
    [name, secret].map((part) => decodeURIComponent(part as string)),
    ['a:b', 'ü:+ %'],
  )
  assert.equal(confidential.form.has('client_secret'), false)
  assert.deepEqual([bare.authorization, bare.form.get('client_id')], [null, 'a:b'])
})

test('a verifier has 256 bits, and its challenge is what S256 makes of it', async () => {
  const [one, two] = [await pkce(), await pkce()]
  assert.match(one.verifier, /^[A-Za-z0-9_-]{43}$/)
  assert.notEqual(one.verifier, two.verifier)
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(one.verifier))
  assert.equal(one.challenge, Buffer.from(digest).toString('base64url'))
})

test('an issuer that is down: no verdict for who never saw its keys, the last good ones for who did', async () => {
  const other = await startOidc(redirectUri)
  const token = await other.token(job, { seconds: 7200 })
  const known = open({ issuer: other.issuer })
  assert.ok(await known.party.verifyIdToken(token, audiences))
  await other.stop()
  const stranger = open({ issuer: other.issuer })
  await fails(stranger.party.verifyIdToken(token, audiences), 'OIDC_UNAVAILABLE', token)
  const url = { clientId, redirectUri, state: 's', nonce: 'n', codeChallenge: 'c' }
  await fails(stranger.party.authorizationUrl(url), 'OIDC_UNAVAILABLE')
  const exchange = { clientId, clientSecret, redirectUri, code: 'c0de', codeVerifier: 'v', nonce: 'n' }
  await fails(known.party.exchangeCode(exchange), 'OIDC_UNAVAILABLE', clientSecret, 'c0de')
  known.clock.ahead = 61 * 60_000
  assert.ok(await known.party.verifyIdToken(token, audiences))
})
