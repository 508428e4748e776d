import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { revalidateIdentities } from '../../lib/jobs/revalidate-identities.ts'
import { readAuthKey } from '../../runtime/auth-key.ts'
import { loadConfig } from '../../runtime/config.ts'
import { createIdentities, type Identities } from '../../runtime/identities.ts'
import { admin } from '../matrix/columns.ts'
import { askToken, checkStraight, getWithIdentity } from '../support/logins.ts'
import { startMcias } from '../support/mcias.ts'
import { errorCode, pushImage } from '../support/oci.ts'
import { type TestRegistry, testRegistry } from '../support/registry.ts'

const mcias = await startMcias()
after(() => mcias.stop())
const settings = { MCR_MCIAS_SERVER_URL: mcias.url, MCR_MCIAS_CA_CERT: mcias.caCert, MCR_MCIAS_TAGS: 'env:restricted' }
const registry = await testRegistry(settings)
await pushImage(registry, 'team/app', 'v1')
const alice = mcias.addAccount({ username: 'alice', password: 'a password over there', roles: ['user'] })
mcias.addAccount({ username: 'guest', password: 'a password over there', roles: ['guest'] })
mcias.addAccount({ username: 'careful', password: 'a password over there', totp: '123456', roles: ['user'] })
mcias.addAccount({ username: 'deployer', type: 'system', roles: [] })

const password = 'a password over there'
const image = '/v2/team/app/manifests/v1'
const scope = 'repository:team/app:pull'
const pull = async (name: string, secret = password) => await getWithIdentity(registry, image, { name, password: secret }, scope)
const tokenOf = async (name: string, secret: string) => {
  const response = await askToken(registry, { name, password: secret }, scope)
  return { status: response.status, token: ((await response.json()) as { token: string }).token }
}
const withToken = async (bearer: string) => (await registry.fetch('GET', image, { bearer })).status

/** What a process asks that starts now over the same data. */
function anotherProcess({ root, database }: TestRegistry, offlineGrace: string): Identities {
  const loaded = loadConfig({ env: { ...settings, MCR_STORAGE_ROOT: root, MCR_MCIAS_OFFLINE_GRACE: offlineGrace } })
  if ('problems' in loaded) throw new Error(JSON.stringify(loaded.problems))
  const base = { now: () => Date.now(), note: () => undefined, log: () => undefined }
  return createIdentities({ ...base, metadata: database }, loaded.config, readAuthKey(join(root, 'auth.key'), process.env))
}

/** The job of the registry, run now instead of in half a minute. */
async function revalidate(): Promise<void> {
  await registry.sql(`UPDATE credentials SET validated_at = validated_at - 60000 WHERE name = 'mcias'`)
  await revalidateIdentities(anotherProcess(registry, '0s').mcias).run(undefined as never, new AbortController().signal)
}

test('people of the identity service log in with name and password, and are who they are there', async () => {
  assert.equal((await pull('alice')).status, 200)
  const [account] = await registry.database.read.all<{ subject: string; roles: string; source: string }>(
    `SELECT subject, roles, source FROM accounts WHERE name = 'alice'`,
  )
  assert.deepEqual({ ...account }, { subject: `mcias:${alice}`, roles: '["user"]', source: 'mcias' })
  await checkStraight(registry, image, { name: 'alice', password })
  assert.equal((await pull('alice', 'wrong password')).status, 401)
  assert.equal((await pull('stranger')).status, 401)
  assert.equal((await pull('guest')).status, 403, 'the role guest has no rights here')
})

test('a login is not sent to the identity service each time', async () => {
  const before = mcias.counts['/v1/auth/login'] ?? 0
  for (let i = 0; i < 20; i++) assert.equal((await pull('alice')).status, 200)
  assert.ok((mcias.counts['/v1/auth/login'] ?? 0) - before <= 1)
})

test('an embedded account is never asked for over there', async () => {
  const before = mcias.counts['/v1/auth/login'] ?? 0
  await registry.account('local', ['user'])
  assert.equal((await pull('local', 'not its password')).status, 401)
  assert.equal(mcias.counts['/v1/auth/login'] ?? 0, before)
})

test("a service's token is a password, whatever the name beside it", async () => {
  await admin(registry, 'POST', '/v1/policy/rules', {
    effect: 'allow',
    account_types: ['system'],
    actions: ['registry:pull'],
    repositories: ['team/**'],
  })
  const jwt = mcias.issueToken('deployer', 3600)
  assert.equal((await pull('anything', jwt)).status, 200)
  const { status, token } = await tokenOf('anything', jwt)
  assert.equal(status, 200)
  assert.equal(await withToken(token), 200)
  assert.equal((await registry.fetch('GET', '/v2/', { bearer: jwt })).status, 401, 'it is exchanged, not carried')
  assert.equal((await pull('anything', `${jwt.slice(0, -4)}AAAA`)).status, 401)
})

test('a token that is revoked over there is refused here, also the registry tokens made from it', async () => {
  const jwt = mcias.issueToken('deployer', 3600)
  const { token } = await tokenOf('x', jwt)
  assert.equal(await withToken(token), 200)
  mcias.revoke(jwt)
  await revalidate()
  assert.equal(await withToken(token), 401)
  assert.equal((await pull('x', jwt)).status, 401)
})

test('roles are those over there, not those of the login', async () => {
  const { token } = await tokenOf('alice', password)
  assert.equal(await withToken(token), 200)
  mcias.setRoles('alice', ['guest'])
  await revalidate()
  assert.equal(await withToken(token), 403)
  mcias.setRoles('alice', ['user'])
  await revalidate()
  assert.equal(await withToken(token), 200)
})

test('a second factor is passed on by the login of the administration, and named where it is missing', async () => {
  const refused = await pull('careful')
  assert.equal(refused.status, 401)
  assert.match(await refused.text(), /second factor/)
  const login = async (totp: string) =>
    await registry.fetch('POST', '/v1/auth/login', {
      as: null,
      body: JSON.stringify({ username: 'careful', password, totp_code: totp }),
      headers: { 'content-type': 'application/json' },
    })
  assert.equal((await login('000000')).status, 401)
  const { token } = (await (await login('123456')).json()) as { token: string }
  assert.equal((await registry.fetch('GET', '/v1/auth/whoami', { bearer: token })).status, 200)
})

test('what the identity service denies is 403', async () => {
  mcias.denyTag('env:restricted', 'visitor')
  mcias.addAccount({ username: 'visitor', password, roles: ['visitor'] })
  const refused = await pull('visitor')
  assert.equal(refused.status, 403)
  assert.equal(await errorCode(refused), 'DENIED')
})

test('while it is down: 503 and not 401, embedded accounts as ever, and back when it is back', async () => {
  const jwt = mcias.issueToken('deployer', 3600)
  await mcias.down()
  assert.equal((await pull('somebody')).status, 503)
  assert.equal((await pull('x', jwt)).status, 503)
  assert.equal((await registry.fetch('GET', '/v2/')).status, 200)
  await mcias.up()
  assert.equal((await pull('x', jwt)).status, 200)
  assert.equal((await pull('somebody')).status, 401)
})

test('with a grace, tokens that were valid before count by their signature while it is down; new ones do not', async () => {
  const patient = await testRegistry({ ...settings, MCR_MCIAS_OFFLINE_GRACE: '10m' })
  await pushImage(patient, 'team/app', 'v1')
  await admin(patient, 'POST', '/v1/policy/rules', { effect: 'allow', account_types: ['system'], actions: ['registry:pull'] })
  const known = mcias.issueToken('deployer', 3600)
  const fresh = mcias.issueToken('deployer', 3600)
  const ask = async (secret: string, name: string) =>
    (await getWithIdentity(patient, image, { name, password: secret }, scope)).status
  assert.equal(await ask(known, 'a'), 200)
  await mcias.down()
  await patient.sql(`UPDATE credentials SET validated_at = validated_at - 60000 WHERE name = 'mcias'`)
  assert.equal(await ask(known, 'a'), 200)
  assert.equal(await ask(fresh, 'b'), 503)
  assert.ok(
    await anotherProcess(patient, '10m').sources?.byToken(known, { address: '127.0.0.1' } as never),
    'also after a restart',
  )
  await patient.sql(`UPDATE credentials SET validated_at = validated_at - 3600000 WHERE name = 'mcias'`)
  assert.equal(await ask(known, 'a'), 503, 'the grace is over')
  await mcias.up()
})
