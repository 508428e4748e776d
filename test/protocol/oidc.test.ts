import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Config } from '../../runtime/config.ts'
import { createIdentities } from '../../runtime/identities.ts'
import { admin } from '../matrix/columns.ts'
import { askToken, checkStraight, getWithIdentity } from '../support/logins.ts'
import { pushImage } from '../support/oci.ts'
import { startOidc } from '../support/oidc.ts'
import { freePort } from '../support/ports.ts'
import { testRegistry } from '../support/registry.ts'

const port = await freePort()
const origin = `http://127.0.0.1:${port}`
const callback = `${origin}/auth/oidc/sso/callback`
const oidc = await startOidc(callback)
after(() => oidc.stop())
const registry = await testRegistry({
  MCR_SERVER_PUBLIC_URL: origin,
  MCR_SSO_ISSUER: oidc.issuer,
  MCR_SSO_CLIENT_ID: oidc.clientId,
  MCR_SSO_CLIENT_SECRET: oidc.clientSecret,
  MCR_SSO_REDIRECT_URI: callback,
  MCR_SSO_ROLES_CLAIM: 'groups',
})
await pushImage(registry, 'team/app', 'v1')
await pushImage(registry, 'other/app', 'v1')

const trust = {
  description: 'CI of team/app',
  issuer: oidc.issuer,
  audience: 'mcr.example',
  claims: ['repository=team/app', 'ref=refs/tags/*', 'job.environment=prod'],
  actions: ['registry:pull', 'registry:push'],
  repositories: ['team/**'],
}
const job = {
  sub: 'repo:team/app',
  aud: 'mcr.example',
  repository: 'team/app',
  ref: 'refs/tags/v1',
  job: { environment: 'prod' },
}
await admin(registry, 'POST', '/v1/trusts', trust)

const exchange = async (token: string) => {
  const response = await registry.fetch('POST', '/v1/auth/exchange', {
    as: null,
    body: JSON.stringify({ id_token: token }),
    headers: { 'content-type': 'application/json' },
  })
  return {
    status: response.status,
    body: (await response.json()) as { token: string; expires_at: string; subject: string; error?: string },
  }
}
/** With a secret of this registry. */
const pull = async (name: string, secret: string) =>
  (await registry.fetch('GET', `/v2/${name}/manifests/v1`, { as: { name: 'job', password: secret } })).status
/** With a token of the issuer. */
const pullAsJob = async (name: string, token: string, user = 'job') => {
  const login = { name: user, password: token }
  return (await getWithIdentity(registry, `/v2/${name}/manifests/v1`, login, `repository:${name}:pull`)).status
}

test('a CI job exchanges its ID token for a token that may do what the trust says, and no more', async () => {
  const { status, body } = await exchange(await oidc.token(job))
  assert.equal(status, 200)
  assert.equal(body.subject, `oidc:${oidc.issuer}:repo:team/app`)
  assert.ok(new Date(body.expires_at).getTime() <= Date.now() + 3_600_000)
  assert.equal(await pull('team/app', body.token), 200)
  assert.equal(await pull('other/app', body.token), 403)
  const push = await registry.fetch('POST', '/v2/team/new/blobs/uploads/', { as: { name: 'job', password: body.token } })
  assert.equal(push.status, 202)
  const remove = await registry.fetch('DELETE', '/v2/team/app/manifests/v1', { as: { name: 'job', password: body.token } })
  assert.equal(remove.status, 403)
  const accounts = await registry.fetch('GET', '/v1/accounts', { bearer: body.token })
  assert.equal(accounts.status, 403)
})

test('the ID token itself is a password until its own end', async () => {
  const token = await oidc.token(job)
  assert.equal(await pullAsJob('team/app', token), 200)
  assert.equal(await pullAsJob('other/app', token), 403)
  await checkStraight(registry, '/v2/team/app/manifests/v1', { name: 'job', password: token })
  const response = await askToken(registry, { name: 'job', password: token }, 'repository:team/app:pull,push')
  assert.equal(response.status, 200)
  const { token: registryToken } = (await response.json()) as { token: string }
  assert.equal((await registry.fetch('GET', '/v2/team/app/manifests/v1', { bearer: registryToken })).status, 200)
})

test('an ID token that does not fit in every part is refused', async () => {
  const bad: [what: string, token: string][] = [
    ['another audience', await oidc.token({ ...job, aud: 'someone.else' })],
    ['another repository', await oidc.token({ ...job, repository: 'team/app2' })],
    ['a branch, not a tag', await oidc.token({ ...job, ref: 'refs/heads/main' })],
    ['a glob that must not cross a slash', await oidc.token({ ...job, ref: 'refs/tags/a/b' })],
    ['a nested claim', await oidc.token({ ...job, job: { environment: 'test' } })],
    ['a claim that is missing', await oidc.token({ sub: job.sub, aud: job.aud, repository: job.repository })],
    ['expired', await oidc.token(job, { seconds: -60 })],
    ["another key under the issuer's name", await oidc.token(job, { foreign: true })],
    ['another issuer', await oidc.token(job, { issuer: 'http://127.0.0.1:1' })],
    ['several audiences, made for another', await oidc.token({ ...job, aud: ['mcr.example', 'other'], azp: 'other' })],
    ['no token at all', 'x.y.z'],
  ]
  const [head, payload] = (await oidc.token(job)).split('.') as [string, string, string]
  const none = `${Buffer.from(JSON.stringify({ alg: 'none', kid: 'issuer-key' })).toString('base64url')}.${payload}.`
  bad.push(['alg none', none], ['no signature', `${head}.${payload}.`])
  for (const [index, [what, token]] of bad.entries()) {
    assert.equal((await exchange(token)).status, 401, what)
    // Another name each time: ten failures of one would be a lock-out.
    assert.equal(await pullAsJob('team/app', token, `stranger${index}`), 401, what)
  }
})

test('a trust that is deleted refuses the next request of what came by it', async () => {
  const made = (await admin(registry, 'POST', '/v1/trusts', {
    ...trust,
    audience: 'short',
    description: 'short',
  })) as unknown as { trust: { id: number } }
  const { body } = await exchange(await oidc.token({ ...job, aud: 'short' }))
  assert.equal(await pull('team/app', body.token), 200)
  await admin(registry, 'DELETE', `/v1/trusts/${made.trust.id}`)
  assert.equal(await pull('team/app', body.token), 401)
})

test('an issuer that is down is 503 where its keys are not known yet, and no bad credential', async () => {
  const other = await startOidc(callback)
  await admin(registry, 'POST', '/v1/trusts', { ...trust, issuer: other.issuer })
  const token = await other.token(job)
  await other.stop()
  assert.equal((await exchange(token)).status, 503)
  await other.start()
  assert.equal((await exchange(token)).status, 200)
  await other.stop()
  assert.equal((await exchange(token)).status, 200, 'the last good keys count')
  const config = { mcias: {}, sso: {} } as Config
  const base = { now: () => Date.now(), note: () => undefined, log: () => undefined }
  const restarted = createIdentities({ ...base, metadata: registry.database }, config, undefined)
  assert.ok(await restarted.sources?.byToken(token, { address: '127.0.0.1' } as never), 'also after a restart')
})

test('trusts that would let in anybody are refused', async () => {
  for (const wrong of [
    { claims: [] },
    { issuer: 'http://example.com' },
    { audience: '' },
    { actions: [], roles: [] },
    { claims: ['sub'] },
  ]) {
    const response = await registry.fetch('POST', '/v1/trusts', {
      body: JSON.stringify({ ...trust, ...wrong }),
      headers: { 'content-type': 'application/json' },
    })
    assert.equal(response.status, 400, JSON.stringify(wrong))
  }
})

const start = async (returnTo = '/') => {
  const response = await registry.fetch('GET', `/auth/oidc/sso/start?return_to=${encodeURIComponent(returnTo)}`, { as: null })
  const cookie = response.headers.getSetCookie()[0]?.split(';')[0] as string
  return { status: response.status, location: response.headers.get('location') as string, cookie }
}
const finish = async (url: string, cookie: string) => {
  const { search } = new URL(url)
  return await registry.fetch('GET', `/auth/oidc/sso/callback${search}`, { as: null, headers: { cookie } })
}

test('a person logs in through the issuer, and gets a session that may change something only with its CSRF token', async () => {
  const { status, location, cookie } = await start('/repositories?x=1')
  assert.equal(status, 303)
  assert.match(location, /code_challenge_method=S256/)
  const back = await oidc.walk(location, 'alice')
  const answer = await finish(back, cookie)
  assert.equal(answer.status, 303, await answer.text())
  assert.equal(answer.headers.get('location'), '/repositories?x=1')
  const line = answer.headers.getSetCookie().find((text) => text.startsWith('mcr_session=')) as string
  assert.match(line, /HttpOnly; SameSite=Lax/)
  const session = line.split(';')[0] as string
  const who = await registry.fetch('GET', '/v1/auth/whoami', { as: null, headers: { cookie: session } })
  const me = (await who.json()) as { name: string; roles: string[]; account_type: string }
  assert.deepEqual([me.name, me.account_type, me.roles.sort()], ['alice@example', 'human', ['reader', 'user']])
  const post = async (headers: Record<string, string>) =>
    (
      await registry.fetch('POST', '/v1/tokens', {
        as: null,
        body: JSON.stringify({ name: 'x' }),
        headers: { 'content-type': 'application/json', cookie: session, ...headers },
      })
    ).status
  const { csrfToken } = await import('../../lib/auth/session.ts')
  const csrf = await csrfToken(session.split('=')[1] as string)
  assert.equal(await post({}), 403)
  assert.equal(await post({ origin }), 403)
  assert.equal(await post({ origin: 'http://evil.example', 'x-csrf-token': csrf }), 403)
  assert.equal(await post({ origin, 'x-csrf-token': csrf }), 201)
  assert.equal(
    (await registry.fetch('GET', '/v2/', { as: null, headers: { cookie: session } })).status,
    401,
    'cookies do not count on /v2',
  )
})

test('a login works once, in the browser where it began, and leads nowhere else', async () => {
  const first = await start()
  const back = await oidc.walk(first.location, 'bob')
  assert.equal((await finish(back, 'mcr_login=another')).status, 401)
  assert.equal((await finish(back, first.cookie)).status, 303)
  assert.equal((await finish(back, first.cookie)).status, 401, 'used')
  const second = await start()
  const stranger = new URL(back)
  stranger.searchParams.set('state', new URL(second.location).searchParams.get('state') as string)
  assert.equal((await finish(stranger.href, second.cookie)).status, 401, "another login's code")
  for (const target of ['https://evil.example', '//evil.example', '/\\evil.example', 'javascript:alert(1)'])
    assert.equal((await start(target)).status, 400, target)
})

test('roles are those of the last login: who left a group has left it here', async () => {
  const walkIn = async (account: string) => {
    const { location, cookie } = await start()
    const answer = await finish(await oidc.walk(location, account), cookie)
    return answer.headers
      .getSetCookie()
      .find((text) => text.startsWith('mcr_session='))
      ?.split(';')[0] as string
  }
  const session = await walkIn('boss')
  const accounts = async () => (await registry.fetch('GET', '/v1/accounts', { as: null, headers: { cookie: session } })).status
  assert.equal(await accounts(), 200)
  await registry.sql(`UPDATE accounts SET roles = '["user"]' WHERE subject = ?`, [`oidc:${oidc.issuer}:boss`])
  assert.equal(await accounts(), 403)
})

test('mcr login --issuer: the browser brings the command line a code, which is good once, for it alone', async () => {
  const { pkce } = await import('../../lib/auth/pkce.ts')
  const through = async (verifierForExchange: (own: string) => string, tamper: (query: string) => string = (query) => query) => {
    const { verifier, challenge } = await pkce()
    const query = tamper(`cli_port=${port}&cli_challenge=${challenge}`)
    const first = await registry.fetch('GET', `/auth/oidc/sso/start?${query}`, { as: null })
    if (first.status !== 303) return { status: first.status }
    const cookie = first.headers.getSetCookie()[0]?.split(';')[0] as string
    const answer = await finish(await oidc.walk(first.headers.get('location') as string, 'carol'), cookie)
    const back = new URL(answer.headers.get('location') as string)
    assert.equal(back.origin, `http://127.0.0.1:${port}`)
    assert.ok(!answer.headers.getSetCookie().some((line) => line.startsWith('mcr_session=')))
    const ask = async () =>
      await registry.fetch('POST', '/v1/auth/exchange', {
        as: null,
        body: JSON.stringify({ code: back.searchParams.get('code'), code_verifier: verifierForExchange(verifier) }),
        headers: { 'content-type': 'application/json' },
      })
    const response = await ask()
    return { status: response.status, body: (await response.json()) as { token: string }, again: (await ask()).status }
  }
  const good = await through((own) => own)
  assert.deepEqual([good.status, good.again], [200, 401])
  const who = await registry.fetch('GET', '/v1/auth/whoami', { bearer: good.body?.token })
  assert.equal(((await who.json()) as { name: string }).name, 'carol@example')
  assert.equal((await through(() => 'another verifier')).status, 401)
  assert.equal(
    (
      await through(
        (own) => own,
        (query) => query.replace(/cli_port=\d+/, 'cli_port=evil.example'),
      )
    ).status,
    400,
  )
  assert.equal(
    (
      await through(
        (own) => own,
        (query) => query.replace(/cli_challenge=.*/, 'cli_challenge='),
      )
    ).status,
    400,
  )
})
