import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect, constants } from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { sha256 } from '../support/oci.ts'
import { makeCertificate, password, startRegistry } from '../support/process.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-tls-'))
const files = makeCertificate(scratch)
const registry = await startRegistry({ tls: files })
after(async () => {
  await registry.remove()
  rmSync(scratch, { recursive: true, force: true })
})
const port = Number(registry.host.split(':')[1])
const authorization = `Basic ${btoa(`admin:${password}`)}`

async function h2(
  method: string,
  path: string,
  options: { body?: Uint8Array; headers?: Record<string, string>; abortAfter?: number } = {},
) {
  const session = connect(`https://localhost:${port}`, { ca: readFileSync(files.cert) })
  try {
    return await new Promise<{ status: number; headers: Record<string, unknown>; body: Buffer }>((resolve, reject) => {
      session.once('error', reject)
      const stream = session.request({ ':method': method, ':path': path, authorization, ...options.headers })
      let headers: Record<string, unknown> = {}
      const chunks: Buffer[] = []
      stream.on('response', (received) => {
        headers = received
      })
      stream.on('data', (chunk: Buffer) => {
        chunks.push(chunk)
        if (options.abortAfter !== undefined && chunks.length >= options.abortAfter) stream.close(constants.NGHTTP2_CANCEL)
      })
      stream.on('close', () => resolve({ status: Number(headers[':status']), headers, body: Buffer.concat(chunks) }))
      stream.on('error', () => undefined)
      stream.end(options.body)
    })
  } finally {
    session.close()
  }
}

test('HTTP/2 and HTTP/1.1 on one port: push over one, pull over the other', async () => {
  const content = randomBytes(3_000_000)
  const digest = sha256(content)
  const pushed = await h2('POST', `/v2/tls/app/blobs/uploads/?digest=${digest}`, { body: content })
  assert.equal(pushed.status, 201)
  const pulled = await h2('GET', `/v2/tls/app/blobs/${digest}`)
  assert.equal(pulled.status, 200)
  assert.ok(pulled.body.equals(content))
  const curl = execFileSync(
    'curl',
    [
      '-sS',
      '--http1.1',
      '--cacert',
      files.cert,
      '-H',
      `Authorization: ${authorization}`,
      `${registry.url}/v2/tls/app/blobs/${digest}`,
    ],
    { maxBuffer: 8_000_000 },
  )
  assert.ok(curl.equals(content))
  assert.match(String(pulled.headers['strict-transport-security']), /max-age/)
})

test('refusals over HTTP/2 have the same form; the challenge names https', async () => {
  const refused = await h2('GET', '/v2/', { headers: { authorization: 'Basic bm9ib2R5Og==' } })
  assert.equal(refused.status, 401)
  assert.match(String(refused.headers['www-authenticate']), new RegExp(`^Bearer realm="https://localhost:${port}/v2/token"`))
  assert.equal((await h2('GET', '/v2/PUB/x/tags/list')).status, 400)
  assert.equal((await h2('GET', '/v2/', { headers: { ':authority': 'evil.example' } })).status, 421)
})

test('downloads that are given up leave no open file', async () => {
  const content = randomBytes(30_000_000)
  const digest = sha256(content)
  assert.equal((await h2('POST', `/v2/tls/app/blobs/uploads/?digest=${digest}`, { body: content })).status, 201)
  const open = () => readdirSync(`/proc/${registry.pid}/fd`).length
  await h2('GET', `/v2/tls/app/blobs/${digest}`, { abortAfter: 1 })
  await new Promise((resolve) => setTimeout(resolve, 300))
  const before = open()
  for (let round = 0; round < 10; round++) await h2('GET', `/v2/tls/app/blobs/${digest}`, { abortAfter: 1 })
  for (let wait = 0; wait < 50 && open() > before; wait++) await new Promise((resolve) => setTimeout(resolve, 100))
  assert.ok(open() <= before, `${open()} descriptors, ${before} before`)
})

test('TLS 1.1 is refused, 1.2 and 1.3 are served', async () => {
  const version = (options: object) =>
    new Promise<string>((resolve) => {
      const socket = tlsConnect({ port, host: 'localhost', ca: readFileSync(files.cert), ...options }, () => {
        resolve(String(socket.getProtocol()))
        socket.destroy()
      })
      socket.on('error', () => resolve('refused'))
    })
  assert.equal(await version({ minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }), 'refused')
  assert.equal(await version({ maxVersion: 'TLSv1.2' }), 'TLSv1.2')
  assert.equal(await version({}), 'TLSv1.3')
})

test('a new certificate is served without a restart; a broken one is not', async () => {
  const fingerprint = () =>
    new Promise<string>((resolve, reject) => {
      const socket = tlsConnect({ port, host: 'localhost', rejectUnauthorized: false }, () => {
        resolve(socket.getPeerCertificate().fingerprint256)
        socket.destroy()
      })
      socket.on('error', reject)
    })
  const before = await fingerprint()
  const folder = join(scratch, 'new')
  mkdirSync(folder)
  const next = makeCertificate(folder)
  cpSync(next.cert, files.cert)
  cpSync(next.key, files.key)
  chmodSync(files.key, 0o600)
  for (let wait = 0; wait < 100 && (await fingerprint()) === before; wait++)
    await new Promise((resolve) => setTimeout(resolve, 100))
  const after = await fingerprint()
  assert.notEqual(after, before)
  cpSync('package.json', files.cert)
  await new Promise((resolve) => setTimeout(resolve, 6_000))
  assert.equal(await fingerprint(), after)
})
