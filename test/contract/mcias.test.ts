import assert from 'node:assert/strict'
import { createPublicKey, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { request } from 'node:https'
import { Readable } from 'node:stream'
import { after, type TestContext, test } from 'node:test'
import { createMcias, isMciasFailure, type McFailure } from '../../lib/auth/mcias.ts'
import { type McAnswer, startMcias } from '../support/mcias.ts'

const server = await startMcias()
after(() => server.stop())
const ca = readFileSync(server.caCert)
const loginPath = '/v1/auth/login'
const validatePath = '/v1/token/validate'
const keyPath = '/v1/keys/public'

/** fetch by node:https, which can trust one certificate; it follows no redirect by itself. */
async function fetchTrusting(url: string, init: RequestInit): Promise<Response> {
  return await new Promise((resolve, reject) => {
    const sent = request(
      url,
      { method: init.method, headers: { ...(init.headers as object) }, ca, agent: false, signal: init.signal ?? undefined },
      (answer) => {
        const headers = Object.entries(answer.headers).map(([name, value]) => [name, `${value}`] as [string, string])
        const body = answer.statusCode === 204 ? null : (Readable.toWeb(answer) as ReadableStream)
        resolve(new Response(body, { status: answer.statusCode, headers }))
      },
    )
    sent.on('error', reject)
    sent.end(init.body)
  })
}

type Overrides = Partial<Parameters<typeof createMcias>[0]>
const open = (overrides: Overrides = {}) =>
  createMcias({ serverUrl: server.url, tags: [], fetch: fetchTrusting, now: Date.now, ...overrides })

function answering(t: TestContext, path: string, answer: McAnswer): void {
  server.answer(path, answer)
  t.after(() => server.answer(path))
}

/** It fails by this code, and nothing that could be logged of the failure holds a secret. */
async function fails(work: Promise<unknown>, code: McFailure, ...secrets: string[]): Promise<void> {
  const error = await work.then(
    () => assert.fail(`no ${code}`),
    (thrown: unknown) => thrown,
  )
  assert.ok(isMciasFailure(error), String(error))
  assert.equal(error.code, code, error.message)
  assert.equal(error.cause, undefined)
  for (const secret of secrets) assert.ok(!`${error.stack}${JSON.stringify(error)}`.includes(secret), error.message)
}

const json = (body: unknown, status = 200): McAnswer => ({
  status,
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify(body),
})

const human = server.addAccount({ username: 'ann', password: 'pässwörd "1"', roles: ['user', 'admin'] })
const system = server.addAccount({ username: 'ci' })
server.addAccount({ username: 'tom', password: 'second-factor', totp: '123456' })
server.addAccount({ username: 'guest', password: 'guest-word', roles: ['guest'] })

test('a good login gives a token of the service, which then says whose it is', async () => {
  const mcias = open()
  const { token, expiresAt } = await mcias.login('ann', 'pässwörd "1"')
  const hours = (expiresAt - Date.now()) / 3_600_000
  assert.ok(hours > 7.9 && hours <= 8, `${hours}`)
  assert.deepEqual(await mcias.validate(token), {
    sub: human,
    username: 'ann',
    roles: ['user', 'admin'],
    accountType: 'human',
    expiresAt,
  })
})

test('a login says which service asks, and leaves out what there is not', async () => {
  await open({ serviceName: 'mcr', tags: ['env:test', 'team:a'] }).login('ann', 'pässwörd "1"')
  assert.deepEqual(JSON.parse(server.last[loginPath]?.body ?? ''), {
    username: 'ann',
    password: 'pässwörd "1"',
    service_name: 'mcr',
    tags: ['env:test', 'team:a'],
  })
  await open().login('ann', 'pässwörd "1"', '')
  assert.deepEqual(JSON.parse(server.last[loginPath]?.body ?? ''), { username: 'ann', password: 'pässwörd "1"' })
})

test('an unknown name and a wrong password are refused alike', async () => {
  await fails(open().login('ann', 'wrong-password'), 'IDENTITY_REFUSED', 'wrong-password')
  await fails(open().login('nobody', 'wrong-password'), 'IDENTITY_REFUSED', 'wrong-password')
})

test('a system account has no password to log in with', async () => {
  await fails(open().login('ci', 'anything'), 'IDENTITY_REFUSED')
})

test('nothing is asked about an empty name or password', async () => {
  const before = server.counts[loginPath]
  await fails(open().login('', 'x'), 'IDENTITY_REFUSED')
  await fails(open().login('ann', ''), 'IDENTITY_REFUSED')
  assert.equal(server.counts[loginPath], before)
})

test('a refusal stands whatever its body is', async (t) => {
  for (const body of ['', 'no', '[]', 'null', '{"code":["totp_required"]}']) {
    answering(t, loginPath, { status: 401, body })
    await fails(open().login('ann', 'x'), 'IDENTITY_REFUSED')
  }
})

test('an account with a second factor: told so, refused by a wrong code, let in by the right one', async () => {
  const mcias = open()
  await fails(mcias.login('tom', 'second-factor'), 'IDENTITY_TOTP', 'second-factor')
  await fails(mcias.login('tom', 'second-factor', '999999'), 'IDENTITY_REFUSED', 'second-factor', '999999')
  await fails(mcias.login('tom', 'wrong'), 'IDENTITY_REFUSED')
  const { token } = await mcias.login('tom', 'second-factor', '123456')
  assert.equal((await mcias.validate(token))?.username, 'tom')
})

test('the policy over there goes by the tags of the service that asks', async () => {
  server.denyTag('env:restricted', 'guest')
  await fails(open({ tags: ['env:restricted'] }).login('guest', 'guest-word'), 'IDENTITY_DENIED', 'guest-word')
  await fails(open({ tags: ['env:restricted'] }).login('guest', 'wrong'), 'IDENTITY_REFUSED')
  assert.ok((await open({ tags: ['env:open'] }).login('guest', 'guest-word')).token)
  assert.ok((await open({ tags: ['env:restricted'] }).login('ann', 'pässwörd "1"')).token)
})

test('an issued token of a system account is valid, sent in header and body', async () => {
  const token = server.issueToken('ci', 60)
  const identity = await open().validate(token)
  assert.equal(identity?.sub, system)
  assert.equal(identity?.accountType, 'system')
  assert.deepEqual(identity?.roles, [])
  assert.equal(server.last[validatePath]?.authorization, `Bearer ${token}`)
  assert.deepEqual(JSON.parse(server.last[validatePath]?.body ?? ''), { token })
})

test('every validation asks: roles and revocation count at once', async () => {
  const mcias = open()
  const token = server.issueToken('ci', 60)
  const before = server.counts[validatePath] ?? 0
  assert.deepEqual((await mcias.validate(token))?.roles, [])
  server.setRoles('ci', ['pusher'])
  assert.deepEqual((await mcias.validate(token))?.roles, ['pusher'])
  server.revoke(token)
  assert.equal(await mcias.validate(token), undefined)
  assert.equal(server.counts[validatePath], before + 3)
})

test('expired, forged and signed by another key: not valid', async (t) => {
  const mcias = open()
  assert.equal(await mcias.validate(server.issueToken('ci', -1)), undefined)
  const [head, , signature] = server.issueToken('ci', 60).split('.')
  const claims = Buffer.from(JSON.stringify({ sub: human, exp: 4e9, jti: 'x' })).toString('base64url')
  assert.equal(await mcias.validate(`${head}.${claims}.${signature}`), undefined)
  const old = server.issueToken('ci', 60)
  server.rotateKey()
  assert.equal(await mcias.validate(old), undefined)
  answering(t, validatePath, { status: 401, body: 'no' })
  assert.equal(await mcias.validate(old), undefined)
})

test('what could not stand in a header is not valid, and is not sent', async () => {
  const before = server.counts[validatePath]
  for (const token of ['', 'a b', 'a.b\r\nX: y', 'ä.b.c', `${'a'.repeat(16_384)}.b`])
    assert.equal(await open().validate(token), undefined, token.slice(0, 20))
  assert.equal(server.counts[validatePath], before)
})

const validAnswer = { valid: true, sub: human, roles: ['user'], expires_at: '2031-02-03T04:05:06Z' }

test('optional fields may be absent in each of the ways Go has', async (t) => {
  const least = { sub: human, roles: [], expiresAt: Date.UTC(2031, 1, 3, 4, 5, 6) }
  for (const more of [{}, { username: '', account_type: '' }, { username: null, account_type: null }, { roles: undefined }]) {
    answering(t, validatePath, json({ ...validAnswer, roles: null, ...more }))
    assert.deepEqual(await open().validate('a.b.c'), least)
  }
})

test('a time may have a fraction and an offset', async (t) => {
  const at = Date.UTC(2031, 1, 3, 4, 5, 6)
  for (const [text, ms] of [
    ['2031-02-03T04:05:06.123456789Z', at + 123],
    ['2031-02-03T06:35:06.5+02:30', at + 500],
    ['2031-02-03t04:05:06z', at],
  ] as const) {
    answering(t, validatePath, json({ ...validAnswer, expires_at: text }))
    assert.equal((await open().validate('a.b.c'))?.expiresAt, ms, text)
  }
})

test('the subject is one text however it is written', async (t) => {
  answering(t, validatePath, json({ ...validAnswer, sub: human.toUpperCase() }))
  assert.equal((await open().validate('a.b.c'))?.sub, human)
})

test('a malformed verdict about a token is no verdict', async (t) => {
  const wrong: Record<string, unknown>[] = [
    { valid: undefined },
    { valid: 'true' },
    { valid: 1 },
    { sub: undefined },
    { sub: '' },
    { sub: 7 },
    { sub: 'ann' },
    { sub: `${human}\n` },
    { roles: 'admin' },
    { roles: '' },
    { roles: [1] },
    { roles: [''] },
    { roles: ['a\nb'] },
    { roles: { 0: 'admin' } },
    { username: 5 },
    { username: 'a\u0000b' },
    { username: 'a'.repeat(257) },
    { account_type: 'robot' },
    { account_type: ['human'] },
    { expires_at: undefined },
    { expires_at: 1_900_000_000 },
    { expires_at: 'tomorrow' },
    { expires_at: '2031-02-03' },
    { expires_at: '2031-02-03T04:05:06' },
    { expires_at: '2031-13-03T04:05:06Z' },
  ]
  for (const change of wrong) {
    answering(t, validatePath, json({ ...validAnswer, ...change }))
    await fails(open().validate('secret.to.ken'), 'IDENTITY_UNAVAILABLE', 'secret.to.ken')
  }
})

test('a malformed answer to a login is no verdict, and its token stays out of the message', async (t) => {
  const expires_at = '2031-02-03T04:05:06Z'
  for (const answer of [
    {},
    { token: 'x.secret.y' },
    { expires_at },
    { token: 5, expires_at },
    { token: 'x.secret y', expires_at },
  ]) {
    answering(t, loginPath, json(answer))
    await fails(open().login('ann', 'pass-phrase'), 'IDENTITY_UNAVAILABLE', 'secret', 'pass-phrase')
  }
})

const unreadable: Record<string, McAnswer> = {
  'an empty body': { status: 200 },
  'no content': { status: 204 },
  'no JSON': { status: 200, body: 'x.secret.y' },
  'JSON cut short': { status: 200, body: '{"token":"x.secret.y' },
  'a list': { status: 200, body: '["x.secret.y"]' },
  null: { status: 200, body: 'null' },
  'bytes that are no UTF-8': { status: 200, body: Buffer.from([0x7b, 0xff, 0x7d]) },
  'a body shorter than announced': {
    status: 200,
    headers: { 'Content-Length': '500', Connection: 'close' },
    body: '{"valid":false}',
  },
  'a closed connection': 'drop',
  'status 400': { status: 400, body: '{}' },
  'status 404': { status: 404, body: '{}' },
  'status 429': { status: 429, body: '{}' },
  'status 500': { status: 500, body: '{"valid":false}' },
  'status 503': { status: 503 },
}
for (const [name, answer] of Object.entries(unreadable))
  test(`${name} is no verdict`, async (t) => {
    const mcias = open({ timeoutMs: 2_000 })
    answering(t, loginPath, answer)
    await fails(mcias.login('ann', 'pass-phrase'), 'IDENTITY_UNAVAILABLE', 'pass-phrase', 'secret')
    answering(t, validatePath, answer)
    await fails(mcias.validate('a.secret.c'), 'IDENTITY_UNAVAILABLE', 'secret')
    answering(t, keyPath, answer)
    assert.equal(await mcias.publicKey(), undefined)
  })

test('an answer of 64 KiB is read, a longer one is not', async (t) => {
  const text = JSON.stringify({ valid: false })
  answering(t, validatePath, { status: 200, body: text.padEnd(65_536) })
  assert.equal(await open().validate('a.b.c'), undefined)
  answering(t, validatePath, { status: 200, body: text.padEnd(65_537) })
  await fails(open().validate('a.b.c'), 'IDENTITY_UNAVAILABLE')
  answering(t, loginPath, { status: 200, body: ' '.repeat(50_000_000) })
  await fails(open().login('ann', 'x'), 'IDENTITY_UNAVAILABLE')
})

test('an endless answer is cut off, however it is announced', async () => {
  let pulled = 0
  let cancelled = false
  const endless = async () =>
    new Response(
      new ReadableStream({
        pull(controller) {
          pulled++
          controller.enqueue(new Uint8Array(16_384).fill(32))
        },
        cancel() {
          cancelled = true
        },
      }),
    )
  await fails(open({ fetch: endless }).validate('a.b.c'), 'IDENTITY_UNAVAILABLE')
  assert.ok(pulled < 10, `${pulled}`)
  assert.ok(cancelled)
})

test('no redirect is followed', async (t) => {
  for (const status of [301, 302, 303, 307, 308]) {
    const before = server.counts['/elsewhere']
    answering(t, loginPath, { status, headers: { Location: `${server.url}/elsewhere` } })
    await fails(open().login('ann', 'pass-phrase'), 'IDENTITY_UNAVAILABLE', 'pass-phrase')
    answering(t, validatePath, { status, headers: { Location: `${server.url}/elsewhere` } })
    await fails(open().validate('a.b.c'), 'IDENTITY_UNAVAILABLE')
    assert.equal(server.counts['/elsewhere'], before)
  }
  let init: RequestInit = {}
  const opaque = async (_url: string, given: RequestInit) => {
    init = given
    return Object.defineProperty(new Response(), 'status', { value: 0 })
  }
  await fails(open({ fetch: opaque }).validate('a.b.c'), 'IDENTITY_UNAVAILABLE')
  assert.equal(init.redirect, 'manual')
})

test('a service that does not answer in time is given up, and told so', async (t) => {
  answering(t, loginPath, 'hang')
  await fails(open({ timeoutMs: 100 }).login('ann', 'pass-phrase'), 'IDENTITY_UNAVAILABLE', 'pass-phrase')
  let signal: AbortSignal | null | undefined
  const deaf = async (_url: string, init: RequestInit) => {
    signal = init.signal
    return await new Promise<Response>(() => undefined)
  }
  await fails(open({ timeoutMs: 50, fetch: deaf }).validate('a.b.c'), 'IDENTITY_UNAVAILABLE')
  assert.equal(signal?.aborted, true)
  const slowBody = async () =>
    new Response(new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array([123])) }))
  await fails(open({ timeoutMs: 50, fetch: slowBody }).validate('a.b.c'), 'IDENTITY_UNAVAILABLE')
})

test('a failed connection is told by its name only, wherever the platform puts it', async () => {
  const throwing = (error: unknown) => async () => {
    throw error
  }
  for (const [error, message] of [
    [Object.assign(new Error('secret'), { code: 'ECONNRESET' }), /\(ECONNRESET\)$/],
    [
      new TypeError('secret', { cause: Object.assign(new Error('secret'), { code: 'CERT_HAS_EXPIRED' }) }),
      /\(CERT_HAS_EXPIRED\)$/,
    ],
    [Object.assign(new Error('secret'), { code: 'secret' }), /no readable answer$/],
    ['secret', /no readable answer$/],
    [undefined, /no readable answer$/],
  ] as const) {
    const work = open({ fetch: throwing(error) }).validate('a.b.c')
    await fails(work, 'IDENTITY_UNAVAILABLE', 'secret')
    await assert.rejects(work, { message })
  }
})

test('a certificate that nobody vouches for is no service', async () => {
  const untrusting = async (url: string, init: RequestInit) => await fetch(url, init)
  await fails(open({ fetch: untrusting }).login('ann', 'pass-phrase'), 'IDENTITY_UNAVAILABLE', 'pass-phrase')
})

test('down is unavailable, up again is as before', async () => {
  const mcias = open()
  const token = server.issueToken('ann', 60)
  await server.down()
  try {
    await fails(mcias.login('ann', 'pässwörd "1"'), 'IDENTITY_UNAVAILABLE', 'pässwörd')
    await fails(mcias.validate(token), 'IDENTITY_UNAVAILABLE', token)
  } finally {
    await server.up()
  }
  assert.equal((await mcias.validate(token))?.sub, human)
  assert.ok((await mcias.login('ann', 'pässwörd "1"')).token)
})

test('the key verifies the tokens of the service, and is asked for once', async () => {
  const mcias = open()
  const before = server.counts[keyPath] ?? 0
  const [jwk] = await Promise.all([mcias.publicKey(), mcias.publicKey(), mcias.publicKey()])
  await mcias.publicKey()
  assert.equal(server.counts[keyPath], before + 1)
  assert.deepEqual(Object.keys(jwk ?? {}), ['kty', 'crv', 'x'])
  const [head, body, signature = ''] = server.issueToken('ci', 60).split('.')
  const key = createPublicKey({ key: jwk as Record<string, unknown>, format: 'jwk' })
  assert.ok(verify(null, Buffer.from(`${head}.${body}`), key, Buffer.from(signature, 'base64url')))
})

test('a new key is seen after 10 minutes', async () => {
  let now = 0
  const mcias = open({ now: () => now })
  const first = await mcias.publicKey()
  server.rotateKey()
  now = 599_999
  assert.deepEqual(await mcias.publicKey(), first)
  now = 600_000
  const second = await mcias.publicKey()
  assert.notEqual(second?.x, first?.x)
})

test('the last good key is kept while the service is down or tells nonsense', async (t) => {
  let now = 0
  const mcias = open({ now: () => now })
  const first = await mcias.publicKey()
  server.rotateKey()
  await server.down()
  try {
    now = 24 * 3_600_000
    assert.deepEqual(await mcias.publicKey(), first)
  } finally {
    await server.up()
  }
  const before = server.counts[keyPath] ?? 0
  assert.deepEqual(await mcias.publicKey(), first)
  assert.equal(server.counts[keyPath], before, 'not asked again at once')
  const x = first?.x
  for (const answer of [
    {},
    { kty: 'EC', crv: 'Ed25519', x },
    { kty: 'OKP', crv: 'X25519', x },
    { kty: 'OKP', crv: 'Ed25519', x: 'AA' },
  ]) {
    now += 600_000
    answering(t, keyPath, json(answer))
    assert.deepEqual(await mcias.publicKey(), first)
  }
  server.answer(keyPath)
  now += 600_000
  assert.notEqual((await mcias.publicKey())?.x, first?.x)
})

test('without any key so far it is asked for again soon, but not at every request', async () => {
  let now = 0
  const mcias = open({ now: () => now })
  await server.down()
  try {
    assert.equal(await mcias.publicKey(), undefined)
  } finally {
    await server.up()
  }
  now = 9_999
  assert.equal(await mcias.publicKey(), undefined)
  now = 10_000
  assert.ok((await mcias.publicKey())?.x)
})

test('a private half told by mistake is not kept', async (t) => {
  const key = { kty: 'OKP', crv: 'Ed25519', x: 'A'.repeat(43), d: 'B'.repeat(43) }
  answering(t, keyPath, json(key))
  assert.deepEqual(await open().publicKey(), { kty: 'OKP', crv: 'Ed25519', x: key.x })
})

test('the address is https, may have a path, and has nothing else', async () => {
  for (const serverUrl of [
    'http://localhost',
    'ftp://localhost',
    'localhost',
    '',
    'https://a:secret@localhost',
    'https://localhost/?a',
    'https://localhost/#a',
  ])
    assert.throws(
      () => open({ serverUrl }),
      (error: Error) => !error.message.includes('secret') && !isMciasFailure(error),
      serverUrl,
    )
  for (const serverUrl of ['https://id.example/base/', 'https://id.example/base']) {
    let asked = ''
    const listening = async (url: string) => {
      asked = url
      return new Response('{"valid":false}')
    }
    assert.equal(await open({ serverUrl, fetch: listening }).validate('a.b.c'), undefined)
    assert.equal(asked, 'https://id.example/base/v1/token/validate')
  }
})

test('only its own failures are its failures', () => {
  for (const other of [undefined, null, 'IDENTITY_REFUSED', {}, { code: 'UNAUTHORIZED' }, { code: 5 }])
    assert.equal(isMciasFailure(other), false)
})
