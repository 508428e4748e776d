import assert from 'node:assert/strict'
import { createHmac, generateKeyPairSync, sign } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { test } from 'node:test'
import { nativeFetch } from '../support/assets.ts'
import { pushImage } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry()
await pushImage(registry, 'tok/app', 'v1')
const basic = (name: string, password: string) => ({ authorization: `Basic ${btoa(`${name}:${password}`)}` })
const good = basic(registry.admin.name, registry.admin.password)
const tokenFor = async (query: string, headers: Record<string, string> = good) =>
  await nativeFetch(`${registry.url}/v2/token${query}`, { headers })
const accessOf = (token: string) =>
  JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString()).access as { name: string; actions: string[] }[]

test('the reply has what every client reads, and nothing that breaks one', async () => {
  const response = await tokenFor(
    '?service=x&account=admin&client_id=docker&offline_token=true&scope=repository:tok/app:push,pull',
  )
  assert.equal(response.status, 200)
  assert.equal(response.headers.get('content-type'), 'application/json')
  assert.equal(response.headers.get('cache-control'), 'no-store')
  const reply = (await response.json()) as Record<string, unknown>
  assert.equal(reply.token, reply.access_token)
  assert.equal(reply.expires_in, 300)
  assert.equal('refresh_token' in reply, false)
  assert.equal('issued_at' in reply, false)
})

test('scopes: repeated, parted by spaces, with a port in the name, classed, unknown, merged', async () => {
  const query =
    '?scope=repository:tok/app:pull+repository:b:push&scope=repository:tok/app:delete&scope=repository(plugin):p:pull&scope=nonsense&scope=repository:host:5000/x:pull&scope=repository:u:fly'
  const { token } = (await (await tokenFor(query)).json()) as { token: string }
  assert.deepEqual(
    accessOf(token).map(({ name, actions }) => [name, [...actions].sort()]),
    [
      ['tok/app', ['delete', 'pull']],
      ['b', ['push']],
      ['p', ['pull']],
      ['host:5000/x', ['pull']],
      ['u', []],
    ],
  )
})

test('narrowing: what the policy does not allow is left out, with 200; a token without scopes opens the ping', async () => {
  const nobody = await registry.account('narrow', [])
  const response = await tokenFor('?scope=repository:tok/app:pull,push', basic(nobody.name, nobody.password))
  assert.equal(response.status, 200)
  const { token } = (await response.json()) as { token: string }
  assert.deepEqual(accessOf(token), [{ type: 'repository', name: 'tok/app', actions: [] }])
  assert.equal((await registry.fetch('GET', '/v2/tok/app/manifests/v1', { bearer: token })).status, 403)
  assert.equal((await registry.fetch('GET', '/v2/', { bearer: token })).status, 200)
})

test('anonymous gets a token, and with it a 401', async () => {
  const response = await tokenFor('?scope=repository:tok/app:pull', {})
  assert.equal(response.status, 200)
  const { token } = (await response.json()) as { token: string }
  assert.deepEqual(accessOf(token)[0]?.actions, [])
  assert.equal((await registry.fetch('GET', '/v2/tok/app/manifests/v1', { bearer: token })).status, 401)
  assert.equal((await registry.fetch('GET', '/v2/', { bearer: token })).status, 401)
})

test('anonymous pull is a rule, and counts from the next request', async () => {
  assert.equal((await registry.fetch('GET', '/v2/tok/app/manifests/v1', { as: null })).status, 401)
  const rule = JSON.stringify({
    effect: 'allow',
    account_types: ['anonymous'],
    actions: ['registry:pull'],
    repositories: ['tok/*'],
  })
  await registry.sql(`INSERT INTO policy_rules(priority, rule, created_at, updated_at) VALUES (10, ?, 0, 0)`, [rule])
  assert.equal((await registry.fetch('GET', '/v2/tok/app/manifests/v1', { as: null })).status, 200)
  assert.equal(
    (await registry.fetch('GET', '/v2/', { as: null })).status,
    401,
    'the ping stays closed: clients read the challenge there',
  )
  await registry.sql(`DELETE FROM policy_rules`)
  assert.equal((await registry.fetch('GET', '/v2/tok/app/manifests/v1', { as: null })).status, 401)
})

test('POST: the password grant, and refusals that say what is supported', async () => {
  const post = async (body: string) =>
    await nativeFetch(`${registry.url}/v2/token`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    })
  const granted = await post(
    `grant_type=password&service=x&client_id=y&username=admin&password=${encodeURIComponent(registry.admin.password)}&scope=repository:tok/app:pull`,
  )
  assert.equal(granted.status, 200)
  assert.equal(typeof ((await granted.json()) as { access_token: unknown }).access_token, 'string')
  assert.equal((await post('grant_type=password&username=admin&password=wrong')).status, 401)
  assert.equal((await post('grant_type=refresh_token&refresh_token=x')).status, 401)
  assert.equal((await post('grant_type=magic')).status, 400)
  assert.equal((await post('x'.repeat(70_000))).status, 413)
})

test('bad credentials are 401, the same for an unknown name as for a wrong password, on every route', async () => {
  const bodies: string[] = []
  for (const headers of [basic('admin', 'wrong'), basic('nobody-of-that-name', 'wrong')]) {
    for (const path of ['/v2/', '/v2/token', '/v2/tok/app/manifests/v1']) {
      const response = await nativeFetch(`${registry.url}${path}`, { headers })
      assert.equal(response.status, 401)
      bodies.push(await response.text())
    }
  }
  assert.equal(new Set(bodies).size, 1)
  for (const authorization of ['Basic', 'Basic !!!', 'Basic YWRtaW4=', 'Digest x', 'Bearer', `Basic ${'A'.repeat(9000)}`])
    assert.equal(
      (await nativeFetch(`${registry.url}/v2/`, { headers: { authorization } })).status,
      401,
      authorization.slice(0, 20),
    )
})

test('more than 100 scopes are refused', async () => {
  const query = Array.from({ length: 101 }, (_, index) => `scope=repository:r${index}:pull`).join('&')
  assert.equal((await tokenFor(`?${query}`)).status, 400)
})

test('a password change and a disabled account refuse the next request with an old token', async () => {
  const user = await registry.account('changing', ['user'])
  const take = async () =>
    ((await (await tokenFor('?scope=repository:tok/app:pull', basic(user.name, user.password))).json()) as { token: string })
      .token
  const read = async (bearer: string) => (await registry.fetch('GET', '/v2/tok/app/manifests/v1', { bearer })).status
  const first = await take()
  assert.equal(await read(first), 200)
  await registry.sql(
    `UPDATE credentials SET version = version + 1 WHERE account_id = (SELECT id FROM accounts WHERE name = 'changing')`,
  )
  assert.equal(await read(first), 401)
  const second = await take()
  await registry.sql(`UPDATE accounts SET disabled = 1 WHERE name = 'changing'`)
  assert.equal(await read(second), 401)
  assert.equal((await tokenFor('', basic(user.name, user.password))).status, 401)
  await registry.sql(`UPDATE accounts SET disabled = 0, roles = '[]' WHERE name = 'changing'`)
  assert.equal(await read(second), 403, 'roles are those of now, not of the token')
})

test('forged tokens are 401, and no address in one is asked (S-01, S-02, S-03)', async () => {
  let asked = 0
  const trap = createServer((_req, res) => {
    asked++
    res.end('{}')
  }).listen(0, '127.0.0.1')
  await once(trap, 'listening')
  trap.unref()
  const url = `http://127.0.0.1:${(trap.address() as { port: number }).port}/jwks`
  const { token } = (await (await tokenFor('?scope=repository:tok/app:pull')).json()) as { token: string }
  const [rawHeader, rawPayload, signature] = token.split('.') as [string, string, string]
  const header = JSON.parse(Buffer.from(rawHeader, 'base64url').toString()) as Record<string, unknown>
  const payload = JSON.parse(Buffer.from(rawPayload, 'base64url').toString()) as Record<string, unknown>
  const b64 = (value: unknown) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
  const attacker = generateKeyPairSync('ed25519')
  const jwk = attacker.publicKey.export({ format: 'jwk' })
  const forge = (head: object, body: object = payload) => {
    const text = `${b64(head)}.${b64(body)}`
    return `${text}.${sign(null, Buffer.from(text), attacker.privateKey).toString('base64url')}`
  }
  const hmac = (key: string) => {
    const text = `${b64({ ...header, alg: 'HS256' })}.${rawPayload}`
    return `${text}.${createHmac('sha256', key).update(text).digest('base64url')}`
  }
  const tokens: [string, string][] = [
    ['the header carries its own key', forge({ ...header, jwk })],
    ['jku', forge({ ...header, jku: url })],
    ['x5u', forge({ ...header, x5u: url })],
    ['x5c', forge({ ...header, x5c: ['MIIB'] })],
    ['kid is a path', forge({ ...header, kid: '../../etc/passwd' })],
    ['kid is SQL', forge({ ...header, kid: "' OR 1=1--" })],
    ['kid is an address', forge({ ...header, kid: url })],
    ['kid is huge', forge({ ...header, kid: 'k'.repeat(10_000) })],
    ['kid is a list', forge({ ...header, kid: [header.kid] })],
    ['kid is empty', forge({ ...header, kid: '' })],
    ['no kid', forge({ alg: 'EdDSA', typ: 'at+jwt' })],
    ['another key under our kid', forge(header)],
    ...['none', 'None', 'NONE', 'nOnE'].map((alg): [string, string] => [
      `alg ${alg}`,
      `${b64({ ...header, alg })}.${rawPayload}.`,
    ]),
    ['alg none with our signature', `${b64({ ...header, alg: 'none' })}.${rawPayload}.${signature}`],
    ['HS256 with an empty key', hmac('')],
    ['HS256 with the public key', hmac(JSON.stringify(jwk))],
    ['RS256', forge({ ...header, alg: 'RS256' })],
    ['ES256, zero signature', `${b64({ ...header, alg: 'ES256' })}.${rawPayload}.${Buffer.alloc(64).toString('base64url')}`],
    ['zero signature', `${rawHeader}.${rawPayload}.${Buffer.alloc(64).toString('base64url')}`],
    ['no signature', `${rawHeader}.${rawPayload}.`],
    ['two parts', `${rawHeader}.${rawPayload}`],
    ['five parts', `${token}.${rawPayload}.${signature}`],
    ['another payload', `${rawHeader}.${b64({ ...payload, cid: 2 })}.${signature}`],
    ['another typ', forge({ ...header, typ: 'JWT' })],
    ['crit', forge({ ...header, crit: ['x'], x: 1 })],
    ['b64 false', forge({ ...header, crit: ['b64'], b64: false })],
    ['zip', forge({ ...header, zip: 'DEF' })],
    ['no exp', forge(header, { ...payload, exp: undefined })],
    ['a far exp', forge(header, { ...payload, exp: 9_999_999_999 })],
    ['a megabyte', `${token}${'A'.repeat(50_000)}`],
    ['not base64', `${token.slice(0, -3)}!!!`],
    ['a stranger', 'a.b.c'],
    ['dots', '..'],
  ]
  for (const [what, forged] of tokens) {
    const response = await registry.fetch('GET', '/v2/tok/app/manifests/v1', { bearer: forged })
    assert.equal(response.status, 401, what)
    assert.match(response.headers.get('www-authenticate') ?? '', /scope="repository:tok\/app:pull",error="invalid_token"/, what)
  }
  assert.equal(asked, 0)
  assert.equal((await registry.fetch('GET', '/v2/tok/app/manifests/v1', { bearer: token })).status, 200)
  trap.close()
})

test('guessing locks out the address for that account, with Retry-After, and nobody else', async () => {
  const victim = await registry.account('victim', ['user'])
  const wrong = async () => (await tokenFor('', basic(victim.name, 'guess'))).status
  const statuses: number[] = []
  for (let guess = 0; guess < 12; guess++) statuses.push(await wrong())
  assert.deepEqual(statuses.slice(0, 10), Array(10).fill(401))
  assert.equal(statuses.at(-1), 429)
  const locked = await tokenFor('', basic(victim.name, victim.password))
  assert.equal(locked.status, 429)
  assert.ok(Number(locked.headers.get('retry-after')) >= 1)
  assert.equal((await tokenFor('')).status, 200, 'another account from the same address')
})

test('a NUL in a name or a password is a wrong login, and no failure of ours', async () => {
  for (const pair of ['ad\0min:x', 'admin:\0', '\0:\0'])
    for (const path of ['/v2/', '/v2/token', '/v1/auth/whoami'])
      assert.equal(
        (await registry.fetch('GET', path, { as: null, headers: { authorization: `Basic ${btoa(pair)}` } })).status,
        401,
      )
  const form = await registry.fetch('POST', '/v2/token', {
    as: null,
    body: 'grant_type=password&username=a%00b&password=%00',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
  })
  assert.equal(form.status, 401)
  const json = await registry.fetch('POST', '/v1/auth/login', {
    as: null,
    body: JSON.stringify({ username: 'a\0b', password: 'x' }),
    headers: { 'content-type': 'application/json' },
  })
  assert.equal(json.status, 400)
})
