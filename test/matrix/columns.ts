import { createSign, generateKeyPairSync, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { addCredential, prepareSecret } from '../../lib/auth/credentials.ts'
import { createTokenKeys } from '../../lib/auth/tokens.ts'
import { readAuthKey } from '../../runtime/auth-key.ts'
import { nativeFetch } from '../support/assets.ts'
import type { TestRegistry } from '../support/registry.ts'

/** Who asks: the header it brings, and what is special about it. */
export interface Column {
  letter: string
  what: string
  headers: Record<string, string>
}

const password = 'correct horse battery staple'
const basic = (name: string, secret = password) => ({ authorization: `Basic ${btoa(`${name}:${secret}`)}` })
const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

/** Asks the administration as its admin. */
export async function admin(registry: TestRegistry, method: string, path: string, body?: object): Promise<Record<string, never>> {
  const response = await registry.fetch(method as 'POST', path, {
    headers: body ? { 'content-type': 'application/json' } : {},
    body: body ? JSON.stringify(body) : null,
  })
  const text = await response.text()
  if (response.status >= 300) throw new Error(`${method} ${path}: ${response.status} ${text}`)
  return text === '' ? {} : JSON.parse(text)
}

/** The principals of the matrix, with the rules that make them what they are. */
export async function makeColumns(registry: TestRegistry): Promise<Column[]> {
  const roles: Record<string, { actions: string[]; overwrite: boolean }> = {
    reader: { actions: ['registry:pull'], overwrite: true },
    creator: { actions: ['registry:pull', 'registry:push'], overwrite: false },
    writer: { actions: ['registry:pull', 'registry:push'], overwrite: true },
    deleter: { actions: ['registry:pull', 'registry:delete'], overwrite: true },
    owner: { actions: ['registry:pull', 'registry:push', 'registry:delete', 'repository:manage'], overwrite: true },
  }
  for (const [role, { actions, overwrite }] of Object.entries(roles)) {
    await admin(registry, 'POST', '/v1/policy/rules', { effect: 'allow', roles: [role], actions, repositories: ['priv/**'] })
    if (!overwrite)
      await admin(registry, 'POST', '/v1/policy/rules', { effect: 'deny', roles: [role], actions: ['registry:overwrite'] })
  }
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'allow',
    account_types: ['anonymous', 'human', 'system'],
    actions: ['registry:pull'],
    repositories: ['pub/**'],
  })
  const robot = (await admin(registry, 'POST', '/v1/robots', {
    name: 'builder',
    actions: ['registry:pull', 'registry:push'],
    repositories: ['priv/app'],
  })) as unknown as { robot: { subject: string }; secret: string }
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'deny',
    subject_uuid: robot.robot.subject,
    actions: ['registry:overwrite'],
  })
  await registry.account('nobody', [])
  for (const role of Object.keys(roles)) await registry.account(role, [role])
  await registry.account('gone', ['writer'])

  const scopes = ['pub/app', 'priv/app', 'priv/none', 'priv/secret'].map((name) => `repository:${name}:pull`)
  const tokenFor = async (headers: Record<string, string>, wanted: readonly string[]) => {
    const query = wanted.map((scope) => `scope=${encodeURIComponent(scope)}`).join('&')
    const response = await nativeFetch(`${registry.url}/v2/token?${query}`, { headers })
    return ((await response.json()) as { token: string }).token
  }
  const all = ['pub/app', 'priv/app', 'priv/none', 'priv/secret'].map((name) => `repository:${name}:pull,push,delete`)
  const ofGone = await tokenFor(basic('gone'), [...all, 'registry:catalog:*'])
  await admin(registry, 'PATCH', '/v1/accounts/gone', { disabled: true })

  return [
    { letter: 'A', what: 'nobody', headers: {} },
    { letter: 'U', what: 'an account without a role', headers: basic('nobody') },
    { letter: 'R', what: 'a reader of priv/**', headers: basic('reader') },
    { letter: 'C', what: 'a creator in priv/**: pull and push, no overwrite', headers: basic('creator') },
    { letter: 'W', what: 'a writer of priv/**', headers: basic('writer') },
    { letter: 'D', what: 'a deleter in priv/**: pull and delete', headers: basic('deleter') },
    { letter: 'O', what: 'an owner of priv/**: with repository:manage', headers: basic('owner') },
    { letter: 'B', what: 'a robot for priv/app: pull and push, no overwrite', headers: basic('builder', robot.secret) },
    {
      letter: 'T',
      what: `a registry token of W, asked for ${scopes.join(' ')}`,
      headers: bearer(await tokenFor(basic('writer'), scopes)),
    },
    ...(await badTokens(registry)).map(({ what, token }) => ({ letter: 'X', what, headers: bearer(token) })),
    { letter: 'K', what: `a registry token of a writer who was disabled, asked for everything`, headers: bearer(ofGone) },
    {
      letter: 'S',
      what: "a session's cookie of O without a CSRF token",
      headers: { cookie: `mcr_session=${await sessionOf(registry, 'owner')}` },
    },
    {
      letter: 'N',
      what: `an anonymous registry token, asked for ${scopes.join(' ')}`,
      headers: bearer(await tokenFor({}, scopes)),
    },
    { letter: 'M', what: 'the admin', headers: basic('admin') },
  ]
}

async function sessionOf(registry: TestRegistry, name: string): Promise<string> {
  const [account] = await registry.database.read.all<{ id: number }>('SELECT id FROM accounts WHERE name = ?', [name])
  const { secret, hash } = await prepareSecret('session')
  await registry.database.write((sql) =>
    addCredential(sql, {
      accountId: account?.id ?? 0,
      kind: 'session',
      name: '',
      hash,
      expiresAt: Date.now() + 3_600_000,
      now: Date.now(),
    }),
  )
  return secret
}

/** Tokens that look like a writer's and are none: expired, forged, and wrong in every other way. */
async function badTokens(registry: TestRegistry): Promise<{ what: string; token: string }[]> {
  const [instance] = await registry.database.read.all<{ name: string }>('SELECT name FROM instance')
  const [credential] = await registry.database.read.all<{ id: number; version: number; subject: string }>(
    `SELECT c.id, c.version, a.subject FROM credentials c JOIN accounts a ON a.id = c.account_id WHERE a.name = 'writer' AND c.kind = 'password'`,
  )
  const secret = readAuthKey(join(registry.root, 'auth.key'), process.env)
  const claims = {
    sub: credential?.subject ?? '',
    cid: credential?.id ?? 0,
    cver: credential?.version ?? 0,
    access: [{ type: 'repository', name: 'priv/app', actions: ['pull', 'push'] }],
  }
  const keys = (audience: string, shiftMs: number) =>
    createTokenKeys({
      metadata: registry.database,
      audience,
      secret,
      ttlSeconds: 300,
      now: () => Date.now() + shiftMs,
      newId: randomUUID,
    })
  const audience = instance?.name ?? ''
  const good = await keys(audience, 0).sign(claims)
  const [head, payload] = good
    .split('.')
    .slice(0, 2)
    .map((part) => JSON.parse(Buffer.from(part, 'base64url').toString())) as [Record<string, unknown>, Record<string, unknown>]
  const other = generateKeyPairSync('ed25519')
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const forge = (header: object, body: object) => {
    const text = `${part(header)}.${part(body)}`
    const signer = createSign('sha256')
    signer.update(text)
    return `${text}.${Buffer.alloc(64, 1).toString('base64url')}`
  }
  const [key] = await registry.database.read.all<{ jwk: string }>('SELECT public_jwk AS jwk FROM signing_keys')
  const { createHmac, sign } = await import('node:crypto')
  const ownSigned = (header: object, body: object) => {
    const text = `${part(header)}.${part(body)}`
    return `${text}.${sign(null, Buffer.from(text), other.privateKey).toString('base64url')}`
  }
  const hmac = (header: object, body: object) => {
    const text = `${part(header)}.${part(body)}`
    return `${text}.${createHmac('sha256', key?.jwk ?? '')
      .update(text)
      .digest('base64url')}`
  }
  const { exp: _exp, ...endless } = payload
  const goneRobot = (await admin(registry, 'POST', '/v1/robots', {
    name: 'gone-robot',
    actions: ['registry:pull', 'registry:push'],
    repositories: ['priv/**'],
  })) as unknown as { secret: string }
  await admin(registry, 'DELETE', '/v1/robots/gone-robot')
  return [
    { what: 'expired an hour ago', token: await keys(audience, -3_600_000).sign(claims) },
    { what: 'not valid before an hour from now', token: await keys(audience, 3_600_000).sign(claims) },
    { what: 'of another registry (aud and iss)', token: await keys('another-registry', 0).sign(claims) },
    { what: 'forged: alg none', token: `${part({ ...head, alg: 'none' })}.${part(payload)}.` },
    { what: 'forged: a signature of nothing', token: forge(head, payload) },
    {
      what: 'forged: the key in the header',
      token: ownSigned({ ...head, jwk: other.publicKey.export({ format: 'jwk' }) }, payload),
    },
    { what: 'forged: HS256 with the public key', token: hmac({ ...head, alg: 'HS256' }, payload) },
    { what: 'forged: without exp', token: ownSigned(head, endless) },
    { what: 'of another type', token: ownSigned({ ...head, typ: 'JWT' }, payload) },
    { what: 'the token of a robot that was deleted', token: goneRobot.secret },
  ]
}
