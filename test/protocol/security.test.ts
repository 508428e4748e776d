// Attacks that other registries have fallen to, as requests over the wire; the numbers are those of the corpus they were collected in.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { admin } from '../matrix/columns.ts'
import { nativeFetch } from '../support/assets.ts'
import { ociManifest, pushBlob, pushImage, sha256 } from '../support/oci.ts'
import { listeningPort, spawnRegistry } from '../support/process.ts'
import { type Login, type TestRegistry, testRegistry } from '../support/registry.ts'
import { shapeName, shapes } from '../support/shape.ts'

const registry = await testRegistry({ MCR_SERVER_TRUSTED_PROXIES: '127.0.0.1' })
const json = { 'content-type': 'application/json' }
const statusOf = async (
  method: Parameters<TestRegistry['fetch']>[0],
  path: string,
  options: Parameters<TestRegistry['fetch']>[2] = {},
) => (await registry.fetch(method, path, options)).status
const digestOf = async (name: string, tag: string) =>
  (await registry.fetch('HEAD', `/v2/${name}/manifests/${tag}`)).headers.get('docker-content-digest')
const tokenFor = async (login: Login, ...scopes: string[]) => {
  const query = scopes.map((scope) => `scope=${encodeURIComponent(scope)}`).join('&')
  const response = await nativeFetch(`${registry.url}/v2/token?${query}`, {
    headers: { authorization: `Basic ${btoa(`${login.name}:${login.password}`)}` },
  })
  return ((await response.json()) as { token: string }).token
}

test('S-04: a token with push deletes nothing', async () => {
  const { digest } = await pushImage(registry, 's04/app', 'v1')
  const bearer = await registry.token('repository:s04/app:pull,push')
  assert.equal(await statusOf('DELETE', '/v2/s04/app/manifests/v1', { bearer }), 401)
  assert.equal(await statusOf('DELETE', `/v2/s04/app/manifests/${digest}`, { bearer }), 401)
  assert.equal(await statusOf('DELETE', `/v2/s04/app/blobs/${sha256('{}')}`, { bearer }), 401)
  assert.equal(await digestOf('s04/app', 'v1'), digest)
})

test('S-05: who may create and not overwrite moves no tag, by whatever name, however often it is named', async () => {
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'allow',
    roles: ['s05'],
    actions: ['registry:pull', 'registry:push'],
    repositories: ['s05/**'],
  })
  await admin(registry, 'POST', '/v1/policy/rules', { effect: 'deny', roles: ['s05'], actions: ['registry:overwrite'] })
  const as = await registry.account('creator', ['s05'])
  for (const tag of ['latest', 'v1', '_x', 'V1']) await pushImage(registry, 's05/app', tag)
  const text = JSON.stringify({
    schemaVersion: 2,
    mediaType: ociManifest,
    config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 },
    layers: [],
    annotations: { x: 'y' },
  })
  const put = (reference: string) =>
    statusOf('PUT', `/v2/s05/app/manifests/${reference}`, { as, body: text, headers: { 'content-type': ociManifest } })
  const digest = sha256(text)
  const before = await Promise.all(['latest', 'v1', '_x', 'V1'].map((tag) => digestOf('s05/app', tag)))
  for (const reference of [
    'latest',
    'v1',
    '_x',
    'V1',
    `${digest}?tag=v1`,
    `${digest}?tag=new&tag=latest`,
    `${digest}?tag=%76%31`,
    `${digest}?tag=v1&tag=v1`,
    `%76%31`,
  ])
    assert.equal(await put(reference), 403, reference)
  assert.equal(await put(`${digest}?${Array.from({ length: 101 }, (_, index) => `tag=t${index}`).join('&')}`), 414)
  assert.deepEqual(await Promise.all(['latest', 'v1', '_x', 'V1'].map((tag) => digestOf('s05/app', tag))), before)
  assert.equal(await statusOf('HEAD', '/v2/s05/app/manifests/new'), 404, 'all or none')
  assert.equal(await put('brand-new'), 201)
})

test('S-07: whatever is revoked is refused at the next request: role, account, password, personal token, robot, login', async () => {
  await pushImage(registry, 's07/app', 'v1')
  const path = '/v2/s07/app/manifests/v1'
  const person = await registry.account('s07', ['user'])
  const bearer = await tokenFor(person, 'repository:s07/app:pull')
  const personal = (await (
    await registry.fetch('POST', '/v1/tokens', { as: person, body: '{"name":"x"}', headers: json })
  ).json()) as { token: { id: number }; secret: string }
  const ofPersonal = await tokenFor({ name: 's07', password: personal.secret }, 'repository:s07/app:pull')
  const robot = (await admin(registry, 'POST', '/v1/robots', {
    name: 's07-robot',
    actions: ['registry:pull'],
    repositories: ['s07/**'],
  })) as unknown as { secret: string }
  const ofRobot = await tokenFor({ name: 's07-robot', password: robot.secret }, 'repository:s07/app:pull')
  const login = (await (
    await registry.fetch('POST', '/v1/auth/login', {
      as: null,
      body: JSON.stringify({ username: 's07', password: person.password }),
      headers: json,
    })
  ).json()) as { token: string }
  for (const token of [bearer, ofPersonal, ofRobot]) assert.equal(await statusOf('GET', path, { bearer: token }), 200)
  assert.equal(await statusOf('GET', '/v1/auth/whoami', { bearer: login.token }), 200)

  await admin(registry, 'DELETE', '/v1/accounts/s07/roles/user')
  assert.equal(await statusOf('GET', path, { bearer }), 403)
  assert.equal(await statusOf('GET', path, { bearer: ofPersonal }), 403)
  await admin(registry, 'PUT', '/v1/accounts/s07/roles/user')
  assert.equal(await statusOf('GET', path, { bearer }), 200)

  await registry.fetch('DELETE', `/v1/tokens/${personal.token.id}`, { as: person })
  assert.equal(await statusOf('GET', path, { bearer: ofPersonal }), 401)
  assert.equal(await statusOf('GET', path, { as: { name: 's07', password: personal.secret } }), 401)

  await admin(registry, 'POST', '/v1/robots/s07-robot/rotate', {})
  assert.equal(await statusOf('GET', path, { bearer: ofRobot }), 401)
  assert.equal(await statusOf('GET', path, { as: { name: 's07-robot', password: robot.secret } }), 401)

  await admin(registry, 'PATCH', '/v1/accounts/s07', { password: 'another password' })
  assert.equal(await statusOf('GET', path, { bearer }), 401)
  assert.equal(await statusOf('GET', '/v1/auth/whoami', { bearer: login.token }), 401)
  assert.equal(await statusOf('GET', path, { as: person }), 401)
  const changed = { name: 's07', password: 'another password' }
  const fresh = await tokenFor(changed, 'repository:s07/app:pull')
  await admin(registry, 'PATCH', '/v1/accounts/s07', { disabled: true })
  assert.equal(await statusOf('GET', path, { bearer: fresh }), 401)
  assert.equal(await statusOf('GET', path, { as: changed }), 401)
})

test('S-08: nobody makes themselves more than they are by a field, a role or a rule', async () => {
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'allow',
    roles: ['clerk'],
    actions: ['account:manage', 'policy:manage'],
  })
  const as = await registry.account('clerk', ['clerk'])
  const ask = async (method: 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, body?: object) =>
    await statusOf(method, path, { as, body: body ? JSON.stringify(body) : null, headers: json })
  for (const field of ['id', 'version', 'source', 'subject', 'disabled', 'is_admin', 'created_at', '__proto__'])
    assert.equal(await ask('POST', '/v1/accounts', { name: 'sneaky', password: 'long enough', [field]: 1 }), 400, field)
  assert.equal(await ask('POST', '/v1/accounts', { name: 'sneaky', password: 'long enough', roles: ['admin'] }), 403)
  assert.equal(await ask('PUT', '/v1/accounts/clerk/roles/admin'), 403)
  assert.equal(await ask('PATCH', '/v1/accounts/admin', { password: 'taken over' }), 403)
  assert.equal(await ask('DELETE', '/v1/accounts/admin'), 403)
  assert.equal(await ask('POST', '/v1/robots', { name: 'sneaky', actions: ['registry:push'], repositories: ['**'] }), 403)
  assert.equal(
    await ask('POST', '/v1/trusts', { issuer: 'https://x.example', audience: 'x', claims: ['sub=x'], roles: ['admin'] }),
    403,
  )
  assert.equal(await ask('POST', '/v1/policy/rules', { effect: 'allow', roles: ['clerk'], actions: ['registry:pull'] }), 403)
  const circle = [['registry:pull', 'registry:push'], ['registry:pull'], ['registry:push']].map((actions, index) => ({
    effect: 'allow',
    roles: ['clerk'],
    actions,
    description: `circle ${index}`,
  }))
  assert.equal(await ask('PUT', '/v1/policy/rules', { rules: circle }), 403, 'rules that justify one another')
  assert.equal(
    await ask('POST', '/v1/policy/rules', { effect: 'allow', roles: ['clerk2'], actions: ['account:manage'] }),
    201,
    'what it holds it may give',
  )
  const { rule } = (await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'deny',
    roles: ['clerk'],
    actions: ['gc:run'],
  })) as unknown as { rule: { id: number } }
  assert.equal(await ask('DELETE', `/v1/policy/rules/${rule.id}`), 403, 'a deny is not taken away')
  assert.equal((await registry.database.read.all(`SELECT 1 AS one FROM accounts WHERE name = 'sneaky'`)).length, 0)
  assert.equal(await statusOf('GET', '/v2/', {}), 200, 'the admin is who it was')
})

test('S-08: the last admin cannot be locked out, by role, state, deletion or rule', async () => {
  const ask = async (method: 'POST' | 'PATCH' | 'DELETE', path: string, body?: object) =>
    await statusOf(method, path, { body: body ? JSON.stringify(body) : null, headers: json })
  assert.equal(await ask('DELETE', '/v1/accounts/admin/roles/admin'), 409)
  assert.equal(await ask('PATCH', '/v1/accounts/admin', { disabled: true }), 409)
  assert.equal(await ask('DELETE', '/v1/accounts/admin'), 409)
  assert.equal(await ask('POST', '/v1/policy/rules', { effect: 'deny', roles: ['admin'], actions: ['policy:manage'] }), 409)
  assert.equal(await ask('POST', '/v1/policy/rules', { effect: 'deny', actions: ['policy:manage'] }), 409)
  assert.equal(await statusOf('GET', '/v1/policy/rules'), 200)
})

test('S-09: a limited token is no way to an unlimited one', async () => {
  const as = await registry.account('s09', ['user'])
  const limited = (await (
    await registry.fetch('POST', '/v1/tokens', {
      as,
      body: '{"name":"x","actions":["registry:pull"],"repositories":["s09/**"]}',
      headers: json,
    })
  ).json()) as { secret: string }
  const use = { name: 's09', password: limited.secret }
  assert.equal(await statusOf('POST', '/v1/tokens', { as: use, body: '{"name":"y"}', headers: json }), 403)
  assert.equal(
    await statusOf('POST', '/v1/auth/login', {
      as: null,
      body: JSON.stringify({ username: 's09', password: limited.secret }),
      headers: json,
    }),
    403,
  )
  await pushImage(registry, 's09/app', 'v1')
  await pushImage(registry, 'other09/app', 'v1')
  const bearer = await tokenFor(use, 'repository:s09/app:pull,push,delete', 'repository:other09/app:pull')
  assert.equal(await statusOf('GET', '/v2/s09/app/manifests/v1', { bearer }), 200)
  assert.equal(await statusOf('POST', '/v2/s09/app/blobs/uploads/', { bearer }), 403)
  assert.equal(await statusOf('GET', '/v2/other09/app/manifests/v1', { bearer }), 403)
  const catalog = (await (await registry.fetch('GET', '/v2/_catalog', { as: use })).json()) as { repositories: string[] }
  assert.deepEqual(catalog.repositories, ['s09/app'])
})

test("S-10: an upload is its principal's, in its repository", async () => {
  const [one, two] = [await registry.account('s10a', ['user']), await registry.account('s10b', ['user'])]
  const start = await registry.fetch('POST', '/v2/s10/app/blobs/uploads/', { as: one })
  const location = start.headers.get('location') as string
  for (const method of ['GET', 'PATCH', 'PUT', 'DELETE'] as const) {
    const target = method === 'PUT' ? `${location}?digest=${sha256('x')}` : location
    assert.equal(
      await statusOf(method, target, { as: two, body: method === 'GET' || method === 'DELETE' ? null : 'x' }),
      404,
      method,
    )
    assert.equal(
      await statusOf(method, target.replace('s10/app', 's10/other'), {
        as: one,
        body: method === 'GET' || method === 'DELETE' ? null : 'x',
      }),
      404,
      method,
    )
    assert.equal(
      await statusOf(method, target, { as: null, body: method === 'GET' || method === 'DELETE' ? null : 'x' }),
      401,
      method,
    )
  }
  assert.equal(await statusOf('PATCH', location, { as: one, body: 'mine' }), 202)
})

test('S-12: an unknown name and a wrong password are told the same, to the byte', async () => {
  const ask = async (name: string) => {
    const response = await registry.fetch('GET', '/v2/token', { as: { name, password: 'wrong' } })
    return [response.status, response.headers.get('www-authenticate'), await response.text()]
  }
  assert.deepEqual(await ask('nobody-of-that-name'), await ask('admin'))
})

/** How an address reaches the registry: as that of the connection, through whatever proxy the shape has; or by the word of a trusted one. */
const addresses: Record<string, (address: string, as: Login) => Promise<IncomingMessage>> = {
  'of the connection': (address, as) => ping(as, address),
}
// Where there is a proxy already, the way above goes by its word.
if (!shapes[shapeName()].split)
  addresses['that a proxy names'] = (address, as) => ping(as, '127.0.0.1', { 'x-forwarded-for': `198.51.100.1, ${address}` })

for (const [index, [what, ask]] of Object.entries(addresses).entries())
  test(`S-13: ten wrong passwords close a name for an address ${what}, and for no other; tokens count nothing`, async () => {
    const as = await registry.account(`s13-${index}`, ['user'])
    const from = (last: number, password: string) => ask(`127.0.${index}.${last}`, { ...as, password })
    for (let attempt = 0; attempt < 10; attempt++) assert.equal((await from(7, `wrong ${attempt}`)).statusCode, 401)
    const closed = await from(7, as.password)
    assert.equal(closed.statusCode, 429)
    assert.ok(Number(closed.headers['retry-after']) > 0)
    assert.equal((await from(8, as.password)).statusCode, 200)
    const { secret } = (await admin(registry, 'POST', '/v1/robots', {
      name: `s13-${index}-robot`,
      actions: ['registry:pull'],
    })) as unknown as { secret: string }
    await admin(registry, 'POST', `/v1/robots/s13-${index}-robot/rotate`, {})
    for (let attempt = 0; attempt < 30; attempt++) assert.equal((await from(9, secret)).statusCode, 401)
    assert.equal((await from(9, as.password)).statusCode, 200)
  })

test('S-13: who is no proxy does not say which address it has', async () => {
  const as = await registry.account('s13-pretender', ['user'])
  const from = (password: string, address: string) =>
    ping({ ...as, password }, '127.0.2.7', { 'x-forwarded-for': address, forwarded: `for=${address}`, 'x-real-ip': address })
  for (let attempt = 0; attempt < 10; attempt++)
    assert.equal((await from(`wrong ${attempt}`, `127.0.2.${attempt + 10}`)).statusCode, 401)
  assert.equal((await from(as.password, '127.0.2.8')).statusCode, 429)
})

test('S-14: whatever scopes are asked for, a token holds no more than the policy allows', async () => {
  const as = await registry.account('s14', [])
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'allow',
    subject_uuid: await subjectOf('s14'),
    actions: ['registry:pull'],
    repositories: ['s14/**'],
  })
  await pushImage(registry, 's14/app', 'v1')
  await pushImage(registry, 's14secret/app', 'v1')
  const scopes = [
    'repository:s14/app:*',
    'repository:s14secret/app:pull',
    'repository:s14/app:pull repository:s14secret/app:*',
    'repository:s14/../s14secret/app:pull',
    'repository:S14SECRET/app:pull',
    'repository:*:*',
    'repository:**:pull',
    'registry:catalog:*',
    'repository(plugin):s14secret/app:pull',
    'repository:s14/app:pull,push,delete,*',
    'x:y:z',
    ':::',
    'repository:s14secret/app:pull:pull',
  ]
  for (const scope of scopes) {
    const bearer = await tokenFor(as, scope)
    assert.ok([200, 401].includes(await statusOf('GET', '/v2/s14/app/manifests/v1', { bearer })), scope)
    assert.equal(await statusOf('GET', '/v2/s14secret/app/manifests/v1', { bearer }), 403, scope)
    assert.equal(await statusOf('POST', '/v2/s14/app/blobs/uploads/', { bearer }), 403, scope)
  }
})

test('S-25: a blob of another repository is as absent as one that nobody has', async () => {
  const secret = await pushBlob(registry, 's25/secret', 'only here')
  const nowhere = sha256('nowhere at all')
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'allow',
    roles: ['s25'],
    actions: ['registry:pull', 'registry:push'],
    repositories: ['s25/app'],
  })
  const as = await registry.account('s25', ['s25'])
  await pushBlob(registry, 's25/app', '{}')
  const ask = async (digest: string) => {
    const answers: unknown[] = []
    for (const [method, path] of [
      ['HEAD', `/v2/s25/app/blobs/${digest}`],
      ['GET', `/v2/s25/app/blobs/${digest}`],
      ['POST', `/v2/s25/app/blobs/uploads/?mount=${digest}&from=s25/secret`],
      ['POST', `/v2/s25/app/blobs/uploads/?mount=${digest}`],
    ] as const) {
      const response = await registry.fetch(method, path, { as })
      answers.push([response.status, (await response.text()).replaceAll(digest, 'D')])
    }
    const manifest = JSON.stringify({
      schemaVersion: 2,
      mediaType: ociManifest,
      config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: 9 }],
    })
    const put = await registry.fetch('PUT', '/v2/s25/app/manifests/v1', {
      as,
      body: manifest,
      headers: { 'content-type': ociManifest },
    })
    answers.push([put.status, (await put.text()).replaceAll(digest, 'D')])
    return answers
  }
  assert.deepEqual(await ask(secret), await ask(nowhere))
})

test('S-26: with deleting switched off, or a tag that may not go, no way deletes it', async () => {
  const off = await testRegistry({ MCR_LIMITS_DELETE_ENABLED: 'false' })
  const { digest } = await pushImage(off, 's26/app', 'v1')
  for (const path of ['manifests/v1', `manifests/${digest}`, `blobs/${sha256('{}')}`])
    assert.equal((await off.fetch('DELETE', `/v2/s26/app/${path}`)).status, 405)
  const made = await pushImage(registry, 's26/app', 'v1')
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'deny',
    actions: ['registry:delete', 'registry:overwrite'],
    repositories: ['s26/**'],
    tags: ['v*'],
    message: 'kept for ever',
  })
  const ways: [method: 'DELETE' | 'PUT' | 'POST', path: string, body?: object][] = [
    ['DELETE', '/v2/s26/app/manifests/v1'],
    ['DELETE', `/v2/s26/app/manifests/${made.digest}`],
    ['DELETE', '/v1/repositories/s26/app/-/tags/v1'],
    ['DELETE', `/v1/repositories/s26/app/-/manifests/${made.digest}`],
    ['DELETE', '/v1/repositories/s26/app'],
  ]
  for (const [method, path, body] of ways) {
    const response = await registry.fetch(method, path, { body: body ? JSON.stringify(body) : null, headers: body ? json : {} })
    assert.equal(response.status, 403, path)
    assert.match(await response.text(), /kept for ever/)
  }
  const purged = (await admin(registry, 'POST', '/v1/purge', { repositories: ['s26/**'], older_than: '0s' })) as unknown as {
    deleted: number
    tags: { kept: string }[]
  }
  assert.equal(purged.deleted, 0)
  assert.equal(await digestOf('s26/app', 'v1'), made.digest)
})

test('S-17: secrets stand in no log line, no journal entry and no answer', async () => {
  const root = mkdtempSync(join(tmpdir(), 'mcr-canary-'))
  const canary = 'canary-password-0'
  const child = spawnRegistry([], {
    MCR_STORAGE_ROOT: root,
    MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
    MCR_AUTH_BOOTSTRAP_PASSWORD: canary,
    MCR_SSO_ISSUER: 'https://issuer.example',
    MCR_SSO_CLIENT_ID: 'x',
    MCR_SSO_CLIENT_SECRET: 'canary-client-secret',
    MCR_STORAGE_FREE_FLOOR: '0',
  })
  let log = ''
  child.stdout?.on('data', (chunk: Buffer) => {
    log += chunk
  })
  const url = `http://127.0.0.1:${await listeningPort(child)}`
  const basic = { authorization: `Basic ${btoa(`admin:${canary}`)}`, ...json }
  const post = async (path: string, body: object, headers: Record<string, string> = basic) =>
    (await (await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) })).json()) as Record<
      string,
      string
    >
  const secrets = [canary, 'canary-client-secret', btoa(`admin:${canary}`)]
  secrets.push((await post('/v1/tokens', { name: 'x' })).secret as string)
  secrets.push((await post('/v1/robots', { name: 'r', actions: ['registry:pull'] })).secret as string)
  secrets.push((await post('/v1/auth/login', { username: 'admin', password: canary }, json)).token as string)
  secrets.push(((await (await fetch(`${url}/v2/token`, { headers: basic })).json()) as { token: string }).token)
  await post('/v1/accounts', { name: 'p', password: 'canary-password-1' })
  secrets.push('canary-password-1')
  await post('/v1/auth/login', { username: 'canary-password-2 typed as a name', password: 'canary-password-3' }, json)
  await post('/v1/auth/exchange', { id_token: `eyJhbGciOiJub25lIn0.${btoa('{"iss":"canary-issuer"}')}.canary-signature` }, json)
  secrets.push('canary-password-2', 'canary-password-3', 'canary-signature')
  for (const secret of secrets.slice(3, 6))
    for (const path of ['/v2/', '/v1/auth/whoami'])
      await fetch(`${url}${path}`, { headers: { authorization: `Bearer ${secret}x` } })
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  const journal = await (await fetch(`${url}/v1/audit?n=1000`, { headers: basic })).text()
  const lists = await Promise.all(
    ['/v1/tokens', '/v1/robots', '/v1/accounts', '/v1/status', '/metrics'].map(
      async (path) => await (await fetch(`${url}${path}`, { headers: basic })).text(),
    ),
  )
  child.kill('SIGTERM')
  await once(child, 'close')
  for (const secret of secrets) {
    assert.ok(!log.includes(secret), `the log holds ${secret.slice(0, 12)}…`)
    assert.ok(!journal.includes(secret), `the journal holds ${secret.slice(0, 12)}…`)
    for (const text of lists) assert.ok(!text.includes(secret), `an answer holds ${secret.slice(0, 12)}…`)
  }
})

async function subjectOf(name: string): Promise<string> {
  const [row] = await registry.database.read.all<{ subject: string }>('SELECT subject FROM accounts WHERE name = ?', [name])
  return row?.subject ?? ''
}

/** `GET /v2/` from that address of this machine. */
async function ping(as: Login, localAddress: string, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  const options = { host: '127.0.0.1', port: registry.port, path: '/v2/', localAddress, agent: false, headers }
  const request = httpRequest({ ...options, auth: `${as.name}:${as.password}` }).end()
  const [answer] = (await once(request, 'response')) as [IncomingMessage]
  answer.resume()
  await once(answer, 'end')
  return answer
}
