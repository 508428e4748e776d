// Who may do what, as real clients meet it: tokens as passwords, a push that a rule denies, a tag that may not move, and credentials that end.
import assert from 'node:assert/strict'
import { mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findTool, makeCertificate, password } from '../support/process.ts'
import { shapeName, shapes, startShape } from '../support/shape.ts'
import { type Client, makeClients, run } from './clients.ts'
import { makeSmallImage } from './content.ts'

const needed = ['docker', 'dockerd', 'skopeo', 'podman', 'buildah', 'crane', 'oras', 'regctl', 'helm', 'curl', 'openssl']
const missing = needed.filter((name) => !findTool(name))
if (missing.length > 0) {
  console.log(`not installed: ${missing.join(', ')}; on Debian .ci/install-clients installs them (as root)`)
  process.exit(process.env.CI ? 1 : 0)
}

const scratch = join(tmpdir(), `mcr-access-${process.pid}`)
mkdirSync(scratch)
const { cert, key } = makeCertificate(scratch)
const registry = await startShape(shapeName(), { cert, key })
console.log(`the registry is ${shapes[shapeName()].what}`)
const { host } = registry
let passed = 0
let failed = 0

async function story(name: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
    passed++
    console.log(`ok    ${name}`)
  } catch (error) {
    failed++
    console.log(
      `FAIL  ${name}\n      ${String((error as Error).message)
        .split('\n')
        .join('\n      ')}`,
    )
  }
}

/** The administration over curl: it takes the certificate. */
async function ask(
  method: string,
  path: string,
  body: object | undefined,
  login = `admin:${password}`,
): Promise<Record<string, never>> {
  const text = await run('curl', [
    '-sS',
    '--fail-with-body',
    '--cacert',
    cert,
    '-u',
    login,
    '-X',
    method,
    '-H',
    'Content-Type: application/json',
    ...(body ? ['-d', JSON.stringify(body)] : []),
    `https://${host}${path}`,
  ])
  return text === '' ? {} : JSON.parse(text)
}

const alice = 'alice:a password of hers'
const refusedBy = /release tags stay as they are/
const frozenBy = /frozen until the audit is over/
const unauthorized = /unauthorized|authentication required|401|invalid username\/password/i

interface Made {
  token: { id: number }
  secret: string
}
const newToken = async (name: string) => (await ask('POST', '/v1/tokens', { name, expires_in: '1h' }, alice)) as unknown as Made

/** Ends a token's life in the database: waiting for it would take a minute. */
async function expire(id: number): Promise<void> {
  const { openDatabaseFile } = await import('../../runtime/database-file.ts')
  const database = await openDatabaseFile(join(registry.dir, 'mcr.db'), { onFatal: () => undefined })
  await database.write((sql) => sql.run('UPDATE credentials SET expires_at = ? WHERE id = ?', [Date.now() - 1000, id]))
  await database.close()
}

const clients = makeClients({ host, cert, scratch }).filter((client) => client.name !== 'ctr')
try {
  await ask('POST', '/v1/accounts', { name: 'alice', password: alice.split(':')[1] })
  await ask('POST', '/v1/policy/rules', {
    effect: 'deny',
    actions: ['registry:overwrite'],
    tags: ['v*'],
    message: 'release tags stay as they are',
  })
  await ask('POST', '/v1/policy/rules', {
    effect: 'deny',
    actions: ['registry:push'],
    repositories: ['frozen/**'],
    message: 'frozen until the audit is over',
  })
  const images = [makeSmallImage(scratch, 'one'), makeSmallImage(scratch, 'two')] as const
  const robot = (await ask('POST', '/v1/robots', {
    name: 'ci',
    actions: ['registry:pull', 'registry:push'],
    repositories: ['robots/**'],
  })) as unknown as Made

  for (const client of clients) {
    await client.prepare()
    console.log(`      ${await client.version()}`)
    await play(client, images, robot)
  }
  console.log(`      helm ${(await run('helm', ['version', '--short'])).trim()}`)
  await playHelm(robot)

  await story('crane pulls without any login what a rule opens to everybody', async () => {
    await ask('POST', '/v1/policy/rules', {
      effect: 'allow',
      account_types: ['anonymous'],
      actions: ['registry:pull'],
      repositories: ['open/**'],
    })
    const crane = clients.find((client) => client.name === 'crane') as Client
    await crane.login('alice', 'a password of hers')
    await crane.push(images[0], `${host}/open/app:v1`)
    const nobody = { SSL_CERT_FILE: cert, DOCKER_CONFIG: join(scratch, 'nobody') }
    assert.match(await run('crane', ['manifest', `${host}/open/app:v1`], nobody), /schemaVersion/)
    await assert.rejects(run('crane', ['manifest', `${host}/crane/app:v1`], nobody), unauthorized)
  })
} finally {
  for (const client of clients) await client.stop?.()
  await registry.remove()
}
if (failed === 0) rmSync(scratch, { recursive: true, force: true })
else console.log(`what the stories left is in ${scratch}`)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)

async function play(client: Client, [one, two]: readonly [string, string], robot: Made): Promise<void> {
  const { name } = client
  const app = `${host}/${name}/app:v1`
  const token = await newToken(name)
  await story(`${name}: a personal token is a password; it pushes and pulls`, async () => {
    await client.login('alice', token.secret)
    await client.push(one, app)
    await client.pull(app)
  })
  await story(`${name}: a push that a rule denies says the rule's message`, async () => {
    await assert.rejects(client.push(one, `${host}/frozen/${name}:v1`), frozenBy)
  })
  await story(`${name}: a tag that may not move says so, and names what it named`, async () => {
    const digest = async () => (await ask('GET', `/v1/repositories/${name}/app/-/tags/v1`, undefined)).digest
    const before = await digest()
    await assert.rejects(client.push(two, app), refusedBy)
    assert.equal(await digest(), before)
    await client.push(two, `${host}/${name}/app:nightly`)
  })
  await story(`${name}: a revoked token is refused at the next command`, async () => {
    await ask('DELETE', `/v1/tokens/${token.token.id}`, undefined, alice)
    await assert.rejects(client.pull(app), unauthorized)
  })
  await story(`${name}: an expired token is refused, at the login and after it`, async () => {
    const short = await newToken(`${name} short`)
    await client.login('alice', short.secret)
    await client.pull(app)
    await expire(short.token.id)
    await assert.rejects(client.pull(app), unauthorized)
  })
  await story(`${name}: a robot pushes where its rule lets it, and nowhere else`, async () => {
    await client.login('ci', robot.secret)
    await client.push(one, `${host}/robots/${name}:v1`)
    await assert.rejects(client.push(one, `${host}/${name}/other:v1`), /denied|403/i)
  })
}

async function playHelm(robot: Made): Promise<void> {
  const env = {
    HELM_REGISTRY_CONFIG: join(scratch, 'helm.json'),
    HELM_CACHE_HOME: join(scratch, 'helm-cache'),
    SSL_CERT_FILE: cert,
  }
  const login = (name: string, secret: string) =>
    run('helm', ['registry', 'login', host, '-u', name, '--password-stdin', '--ca-file', cert], env, secret)
  const chart = async (version: string) => {
    await run('helm', ['package', join(scratch, 'chart'), '-d', scratch, '--version', version], env)
    return join(scratch, `chart-${version}.tgz`)
  }
  const push = (file: string, to: string) => run('helm', ['push', file, `oci://${host}/${to}`, '--ca-file', cert], env)
  await run('helm', ['create', join(scratch, 'chart')], env)
  const token = await newToken('helm')
  await story(
    "helm: a personal token is a password; a denied push says the rule's message; a revoked token is refused",
    async () => {
      await login('alice', token.secret)
      await push(await chart('1.0.0'), 'helm')
      await run('helm', ['pull', `oci://${host}/helm/chart`, '--version', '1.0.0', '-d', scratch, '--ca-file', cert], env)
      await assert.rejects(push(await chart('1.0.0'), 'frozen'), frozenBy)
      await ask('DELETE', `/v1/tokens/${token.token.id}`, undefined, alice)
      await assert.rejects(push(await chart('1.0.1'), 'helm'), unauthorized)
      await login('ci', robot.secret)
      await push(await chart('1.0.0'), 'robots')
    },
  )
}
