// Blobs that nginx and Caddy send themselves after the registry's word (X-Accel-Redirect): to the byte what the registry would have sent.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { sha256 } from '../support/oci.ts'
import { password, startRegistry } from '../support/process.ts'
import { type Behind, type ProxyKind, startBehind } from '../support/proxies.ts'

const root = mkdtempSync(join(tmpdir(), 'mcr-accel-'))
const settings = { MCR_STORAGE_ROOT: root, MCR_STORAGE_FREE_FLOOR: '0', MCR_AUTH_BOOTSTRAP_PASSWORD: password }
const kinds: readonly ProxyKind[] = ['nginx', 'caddy']
/** One process with everything: what a proxy sends of a blob is the same however the registry is split. */
const mounts = ['all']
const behind = {} as Record<ProxyKind, Behind>
for (const kind of kinds) behind[kind] = await startBehind(kind, settings, { mounts })
const direct = await startRegistry({ env: { ...settings, MCR_SERVER_ACCEL: 'nginx' } })
const directPort = Number(direct.host.split(':')[1])
after(async () => {
  for (const kind of kinds) await behind[kind].stop()
  await direct.remove()
  rmSync(root, { recursive: true, force: true })
})

interface Answer {
  status: number
  headers: Record<string, string>
  body: Buffer
}
async function ask(
  to: { port: number } | { socketPath: string },
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: Uint8Array,
): Promise<Answer> {
  const authorization = `Basic ${btoa(`admin:${password}`)}`
  return await new Promise((resolve, reject) => {
    const req = request(
      { host: '127.0.0.1', ...to, method, path, headers: { authorization, host: 'localhost:1', ...headers }, agent: false },
      (res) => {
        const chunks: Buffer[] = []
        res.on('data', (chunk) => chunks.push(chunk))
        res.on('error', reject)
        res.on('end', () =>
          resolve({
            status: res.statusCode as number,
            headers: res.headers as Record<string, string>,
            body: Buffer.concat(chunks),
          }),
        )
      },
    )
    req.on('error', reject)
    req.end(body)
  })
}
const seen = ({ status, headers, body }: Answer) => {
  const boundary = /boundary=([0-9a-f-]+)/.exec(headers['content-type'] ?? '')?.[1]
  const plain = (text: string) => (boundary ? text.replaceAll(boundary, '<boundary>') : text)
  return {
    status,
    headers: Object.fromEntries(
      Object.entries(headers)
        .filter(([name]) => !['connection', 'keep-alive', 'date', 'server'].includes(name))
        .map(([name, value]) => [name, plain(value)])
        .sort(),
    ),
    bytes: body.length,
    body: sha256(boundary ? plain(body.toString('latin1')) : body),
  }
}
async function push(content: Uint8Array): Promise<string> {
  const digest = sha256(content)
  const answer = await ask({ port: directPort }, 'POST', `/v2/acc/app/blobs/uploads/?digest=${digest}`, {}, content)
  assert.equal(answer.status, 201)
  return digest
}
const pathOf = (digest: string) => {
  const hex = digest.slice(7)
  const folder = join(root, 'blobs/sha256', hex.slice(0, 2))
  return join(folder, readdirSync(folder).find((name) => name.startsWith(hex)) as string)
}

test('whole blobs, ranges, conditions and HEAD are to the byte what the registry itself answers', async () => {
  const content = randomBytes(1_000_003)
  const digest = await push(content)
  const path = `/v2/acc/app/blobs/${digest}`
  const etag = `"${digest}"`
  const rows: [string, Record<string, string>][] = [
    ['GET', {}],
    ['HEAD', {}],
    ['GET', { range: 'bytes=0-' }],
    ['GET', { range: 'bytes=0-0' }],
    ['GET', { range: 'bytes=100000-700000' }],
    ['GET', { range: 'bytes=999999-' }],
    ['GET', { range: 'bytes=-200000' }],
    ['GET', { range: 'bytes=-5000000' }],
    ['GET', { range: 'bytes=500000-9999999999' }],
    ['GET', { range: 'bytes=1000003-' }],
    ['GET', { range: 'bytes=-0' }],
    ['GET', { range: 'bytes=5-4' }],
    ['GET', { range: 'bytes=0-99999999999999999999' }],
    ['GET', { range: 'bytes= 0-100000' }],
    ['GET', { range: 'Bytes=0-200000' }],
    ['GET', { range: 'chars=0-9' }],
    ['GET', { range: 'bytes=0-1,5-6,100000-400000' }],
    ['GET', { range: 'bytes=0-200000,' }],
    ['HEAD', { range: 'bytes=0-200000' }],
    ['GET', { 'if-none-match': etag }],
    ['GET', { 'if-none-match': '*' }],
    ['GET', { 'if-none-match': '"other"' }],
    ['GET', { 'if-match': etag }],
    ['GET', { 'if-match': '"other"' }],
    ['GET', { 'if-modified-since': new Date(Date.now() + 60_000).toUTCString() }],
    ['GET', { 'if-unmodified-since': 'Thu, 01 Jan 1970 00:00:00 GMT' }],
    ['GET', { range: 'bytes=0-200000', 'if-range': etag }],
    ['GET', { range: 'bytes=0-200000', 'if-range': '"other"' }],
    ['GET', { range: 'bytes=0-200000', 'if-range': new Date().toUTCString() }],
    ['GET', { 'accept-encoding': 'gzip, zstd, br' }],
  ]
  for (const [method, headers] of rows) {
    const wanted = seen(await ask({ port: directPort }, method, path, headers))
    for (const kind of kinds)
      assert.deepEqual(
        seen(await ask({ port: behind[kind].port }, method, path, headers)),
        wanted,
        `${kind} ${method} ${JSON.stringify(headers)}`,
      )
  }
})

test('a large blob is handed over, only to a proxy, and the internal path is nobody’s', async () => {
  const digest = await push(randomBytes(500_000))
  const path = `/v2/acc/app/blobs/${digest}`
  const name = pathOf(digest).slice(join(root, 'blobs').length + 1)
  for (const kind of kinds) {
    const handed = await ask({ socketPath: behind[kind].sockets.all as string }, 'GET', path)
    assert.equal(handed.headers['x-accel-redirect'], `/_mcr_blobs/${name}`)
    assert.equal(handed.body.length, 0)
    for (const inside of [`/_mcr_blobs/${name}`, '/_mcr_blobs/', '/_mcr_blobs/.mcr-blobs', '/_mcr_refusals/404']) {
      const got = await ask({ port: behind[kind].port }, 'GET', inside)
      assert.ok([400, 404].includes(got.status), `${kind} ${inside}: ${got.status}`)
    }
    const asked = await ask({ port: behind[kind].port }, 'GET', path, { 'x-accel-redirect': '/_mcr_blobs/x' })
    assert.equal(asked.body.length, 500_000)
    assert.equal(asked.headers['x-accel-redirect'], undefined)
    const nobody = await ask({ port: behind[kind].port }, 'GET', path, { authorization: 'Bearer none' })
    assert.equal(nobody.status, 401)
  }
  // A proxy of the registry's group gets there; nobody else does.
  assert.equal(statSync(join(root, 'blobs', name, '..')).mode & 0o777, 0o750)
  assert.equal(statSync(join(root, 'uploads')).mode & 0o777, 0o700)
  // Loopback is no proxy unless it was named one.
  const plain = await ask({ port: directPort }, 'GET', path, { 'x-forwarded-for': '10.0.0.1' })
  assert.equal(plain.headers['x-accel-redirect'], undefined)
  assert.equal(plain.body.length, 500_000)
})

test('a missing or cut file is the registry’s own refusal; what is hidden or deleted is not sent', async () => {
  for (const kind of kinds) {
    const { port } = behind[kind]
    const gone = await push(randomBytes(200_000))
    rmSync(pathOf(gone))
    const cut = await push(randomBytes(200_000))
    const file = pathOf(cut)
    rmSync(file)
    writeFileSync(file, randomBytes(200_000))
    truncateSync(file, 100_000)
    assert.equal(statSync(file).size, 100_000)
    const deleted = await push(randomBytes(200_000))
    assert.equal((await ask({ port }, 'DELETE', `/v2/acc/app/blobs/${deleted}`)).status, 202)
    for (const digest of [gone, cut, deleted]) {
      const answer = await ask({ port }, 'GET', `/v2/acc/app/blobs/${digest}`)
      assert.equal(answer.status, 404, kind)
      assert.equal(answer.headers['content-type'], 'application/json')
      assert.equal(JSON.parse(answer.body.toString()).errors[0].code, 'BLOB_UNKNOWN')
      assert.equal((await ask({ port }, 'GET', `/v2/other/app/blobs/${digest}`)).status, 404)
    }
  }
})
