import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { pushBlob, sha256 } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'
import { damages, fileOf, verify } from '../support/storage.ts'

const registry = await testRegistry()
const other = await testRegistry()

interface Repaired {
  digest: string
  repository: string
  outcome: string
  detail: string
}
async function repair(input: object): Promise<Repaired[]> {
  const response = await registry.fetch('POST', '/v1/storage/repair', {
    body: JSON.stringify(input),
    headers: { 'content-type': 'application/json' },
  })
  const text = await response.text()
  assert.equal(response.status, 200, text)
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Repaired)
}
const login = { username: other.admin.name, password: other.admin.password }
const status = async (name: string, digest: string) => (await registry.fetch('GET', `/v2/${name}/blobs/${digest}`)).status

/** A blob that is stored here and damaged, and known to be. */
async function damaged(name: string, content: string, how: keyof typeof damages = 'flipped'): Promise<string> {
  const digest = await pushBlob(registry, name, content)
  damages[how](await fileOf(registry, digest))
  await verify(registry, true)
  assert.equal(await status(name, digest), 404)
  return digest
}

/** A registry that is none: answers as it is told, and keeps what came. */
async function trap(answer: (request: IncomingMessage, url: string) => Answer) {
  const came: { path: string; host: string; authorization: string | undefined }[] = []
  const server = createServer((request, response) => {
    came.push({
      path: request.url ?? '',
      host: request.headers.host ?? '',
      authorization: request.headers.authorization,
    })
    const {
      status: code,
      headers = {},
      body = '',
    } = answer(request, `http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    response.writeHead(code, headers).end(body)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  after(() => {
    server.close()
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, came }
}
interface Answer {
  status: number
  headers?: Record<string, string>
  body?: string
}

test('what is damaged comes back from another registry, by its login, and is proven whole', async () => {
  const flipped = await damaged('repair/app', 'is flipped here and whole there')
  const deleted = await damaged('repair/app', 'is deleted here and whole there', 'deleted')
  const nowhere = await damaged('repair/app', 'is nowhere else')
  for (const content of ['is flipped here and whole there', 'is deleted here and whole there'])
    await pushBlob(other, 'repair/app', content)
  const refused = await repair({ from: other.url, username: 'admin', password: 'wrong' })
  assert.ok(
    refused.every(({ outcome, detail }) => outcome === 'failed' && /401/.test(detail)),
    JSON.stringify(refused),
  )
  const outcomes = new Map((await repair({ from: other.url, ...login })).map(({ digest, outcome }) => [digest, outcome]))
  assert.deepEqual(
    outcomes,
    new Map(
      [
        [flipped, 'healed'],
        [deleted, 'healed'],
        [nowhere, 'absent'],
      ].sort() as [string, string][],
    ),
  )
  assert.equal(await status('repair/app', flipped), 200)
  assert.equal(await status('repair/app', deleted), 200)
  const { findings } = await verify(registry, true)
  assert.deepEqual(
    findings.filter(({ severity }) => severity === 'damage').map(({ digest }) => digest),
    [nowhere],
  )
  const uploads = await registry.database.read.all('SELECT 1 AS one FROM uploads')
  assert.equal(uploads.length, 0, 'no session is left')
  await pushBlob(registry, 'repair/app', 'is nowhere else')
})

test('only what is asked for, and under another name where it has one', async () => {
  const one = await damaged('repair/here', 'one of two')
  const two = await damaged('repair/here', 'two of two')
  await pushBlob(other, 'repair/there', 'one of two')
  assert.deepEqual(
    (await repair({ from: other.url, ...login, digests: [one] })).map(({ outcome }) => outcome),
    ['absent'],
  )
  const found = await repair({ from: other.url, ...login, source_repository: 'repair/there', digests: [one] })
  assert.deepEqual(
    found.map(({ digest, repository, outcome }) => [digest, repository, outcome]),
    [[one, 'repair/here', 'healed']],
  )
  assert.equal(await status('repair/here', two), 404)
  await pushBlob(registry, 'repair/here', 'two of two')
})

test('other bytes are never stored, whatever they come as', async () => {
  const content = 'the true bytes of the layer'
  const digest = await damaged('repair/lies', content)
  for (const [what, body] of [
    ['other bytes of its length', content.toUpperCase()],
    ['fewer bytes', content.slice(1)],
    ['more bytes', `${content}!`],
    ['a page of HTML', '<html>'],
    ['nothing', ''],
  ] as const) {
    const liar = await trap(() => ({ status: 200, headers: { 'docker-content-digest': digest }, body }))
    const [repaired] = await repair({ from: liar.url })
    assert.deepEqual([repaired?.outcome, repaired?.detail], ['failed', 'it gave other bytes'], what)
    assert.equal(await status('repair/lies', digest), 404, what)
  }
  const whole = await trap(() => ({ status: 200, body: content }))
  assert.deepEqual(
    (await repair({ from: whole.url })).map(({ outcome }) => outcome),
    ['healed'],
  )
})

test('the login goes to the registry that was named and its named token service, and nowhere else', async () => {
  const content = 'behind a token service'
  const digest = await damaged('repair/realm', content)
  const secret = { username: 'me', password: 'a secret' }
  const basic = `Basic ${btoa('me:a secret')}`
  const thief = await trap(() => ({ status: 200, body: '{"token":"stolen"}' }))
  const thiefHost = new URL(thief.url).host
  const asks = await trap(() => ({
    status: 401,
    headers: { 'www-authenticate': `Bearer realm="${thief.url}/token",service="x"` },
  }))
  const [refused] = await repair({ from: asks.url, ...secret })
  assert.match(refused?.detail ?? '', new RegExp(`sends logins to ${thiefHost}: if that is its token service, say --realm-host`))
  assert.deepEqual(thief.came, [], 'another host hears nothing at all')
  await repair({ from: asks.url, ...secret, realm_hosts: [thiefHost] })
  assert.deepEqual(
    thief.came.map(({ authorization }) => authorization),
    [basic],
    'unless it was named',
  )

  for (const realm of ['http://registry.example/token', `http://me:pw@${new URL(asks.url).host}/token`]) {
    const clear = await trap(() => ({ status: 401, headers: { 'www-authenticate': `Bearer realm="${realm}"` } }))
    const [failed] = await repair({ from: clear.url, ...secret, realm_hosts: ['registry.example'] })
    assert.match(failed?.detail ?? '', /is not https/, realm)
  }

  const store = await trap(() => ({ status: 200, body: content }))
  const redirects = await trap(
    (request): Answer =>
      request.headers.authorization === basic
        ? { status: 307, headers: { location: `${store.url}/elsewhere` } }
        : { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } },
  )
  assert.deepEqual(
    (await repair({ from: redirects.url, ...secret })).map(({ outcome }) => outcome),
    ['healed'],
  )
  assert.deepEqual(
    store.came.map(({ authorization }) => authorization),
    [undefined],
    'a redirect leaves the login behind',
  )
  assert.equal(await status('repair/realm', digest), 200)

  await damaged('repair/realm', 'one more')
  const loop = await trap((_request, url) => ({ status: 302, headers: { location: `${url}/again` } }))
  assert.match((await repair({ from: loop.url }))[0]?.detail ?? '', /redirects more than 5 times/)
  const down = await trap(() => ({ status: 302, headers: { location: 'http://registry.example/x' } }))
  assert.match((await repair({ from: down.url }))[0]?.detail ?? '', /redirects to http:\/\/registry.example, which is not https/)
  for (const from of ['http://registry.example', 'https://me:pw@registry.example', 'registry.example/path', '::'])
    assert.equal(
      (
        await registry.fetch('POST', '/v1/storage/repair', {
          body: JSON.stringify({ from }),
          headers: { 'content-type': 'application/json' },
        })
      ).status,
      400,
      from,
    )
  await pushBlob(registry, 'repair/realm', 'one more')
})

test('what only deleted things need stays as it is, and is said', async () => {
  const digest = await damaged('repair/hidden', 'needed by nobody')
  await registry.sql(`UPDATE repo_blobs SET hidden_epoch = 1 WHERE digest = ?`, [digest])
  await pushBlob(other, 'repair/hidden', 'needed by nobody')
  assert.deepEqual(
    (await repair({ from: other.url, ...login })).map(({ outcome }) => outcome),
    ['unused'],
  )
  assert.equal(sha256('needed by nobody'), digest)
})
