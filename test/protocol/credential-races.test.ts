// What proves somebody may end while what it asks for is on its way.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTrusts } from '../../lib/auth/trusts.ts'
import { testRegistry } from '../support/registry.ts'
import { shapeName } from '../support/shape.ts'

const registry = await testRegistry()
const json = { 'content-type': 'application/json' }
const post = async (path: string, body: unknown, options = {}) => {
  const response = await registry.fetch('POST', path, { body: JSON.stringify(body), headers: json, ...options })
  const text = await response.text()
  return { status: response.status, body: text ? JSON.parse(text) : undefined }
}
const patch = async (path: string, body: unknown) =>
  (await registry.fetch('PATCH', path, { body: JSON.stringify(body), headers: json })).status

/** The next write waits for `meanwhile`, done by others: those of another process nobody can hold. */
function holdNextWrite(meanwhile: () => Promise<void>) {
  const database = registry.database as { write: (work: never) => Promise<unknown> }
  const real = database.write
  database.write = async (work) => {
    database.write = real
    await meanwhile()
    return await real.call(database, work)
  }
}

if (shapeName() === 'source') {
  test('a login that began with the old password ends with the password', async () => {
    await registry.account('eve', ['user'])
    const old = 'correct horse battery staple'
    holdNextWrite(async () => {
      assert.equal(await patch('/v1/accounts/eve', { password: 'another password 1' }), 200)
    })
    const login = await post('/v1/auth/login', { username: 'eve', password: old }, { as: null })
    assert.equal(login.status, 401)
    assert.equal((await post('/v1/auth/login', { username: 'eve', password: 'another password 1' }, { as: null })).status, 200)
  })

  test('a personal token that is asked for with a login that ends meanwhile is not made', async () => {
    const { name, password } = await registry.account('mallory', ['user'])
    const { body } = await post('/v1/auth/login', { username: name, password }, { as: null })
    holdNextWrite(async () => {
      await registry.sql(
        `DELETE FROM credentials WHERE kind = 'login' AND account_id = (SELECT id FROM accounts WHERE name = ?)`,
        [name],
      )
    })
    assert.equal((await post('/v1/tokens', { name: 'late' }, { bearer: body.token })).status, 401)
    assert.equal((await post('/v1/tokens', { name: 'late' }, { as: { name, password } })).status, 201)
  })
}

test('an account made anew under a name does not take the password of the one before', async () => {
  await registry.account('bob', ['user'])
  const old = { name: 'bob', password: 'correct horse battery staple' }
  assert.equal((await registry.fetch('GET', '/v2/', { as: old })).status, 200)
  assert.equal((await registry.fetch('DELETE', '/v1/accounts/bob')).status, 204)
  assert.equal((await registry.fetch('GET', '/v2/', { as: old })).status, 401)
  assert.equal((await post('/v1/accounts', { name: 'bob', password: 'quite another one', roles: ['admin'] })).status, 201)
  const status = (await registry.fetch('GET', '/v1/auth/whoami', { as: old })).status
  assert.equal(status, 401)
})

test('a trust that is deleted while an ID token is looked at gives nothing', async () => {
  const trust = await post('/v1/trusts', {
    issuer: 'https://issuer.example',
    audience: 'x',
    claims: ['a=b'],
    actions: ['registry:pull'],
    repositories: ['**'],
  })
  assert.equal(trust.status, 201)
  const token = `${Buffer.from('{"alg":"EdDSA"}').toString('base64url')}.${Buffer.from('{"iss":"https://issuer.example"}').toString('base64url')}.${'x'.repeat(100)}`
  const trusts = createTrusts(
    { now: Date.now, note: () => undefined, metadata: registry.database },
    () =>
      ({
        verifyIdToken: async () => {
          // Its keys take a moment.
          assert.equal((await registry.fetch('DELETE', `/v1/trusts/${trust.body.trust.id}`)).status, 204)
          return { aud: 'x', a: 'b', sub: 'job', exp: Date.now() / 1000 + 3600 }
        },
      }) as never,
  )
  await assert.rejects(trusts.byToken(token, { address: 'x' } as never), { code: 'UNAUTHORIZED' })
})

test('guesses that are sent at once are bounded as those are that come one after another', async () => {
  const { name, password } = await registry.account('trudy', ['user'])
  const guess = async (text: string) => (await post('/v1/auth/login', { username: name, password: text }, { as: null })).status
  const answers = await Promise.all([...Array.from({ length: 40 }, (_, n) => guess(`wrong guess ${n}`)), guess(password)])
  assert.equal(answers.filter((status) => status === 401).length, 10)
  assert.equal(answers.at(-1), 429)
})
