import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:http2'
import { request as secureRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { makeCertificate, password, startRegistry } from '../support/process.ts'

const { cert, key } = makeCertificate(mkdtempSync(join(tmpdir(), 'mcr-download-')))
const ca = readFileSync(cert)
const plain = await startRegistry()
const secure = await startRegistry({ tls: { cert, key } })
after(async () => {
  await plain.remove()
  await secure.remove()
})
const authorization = `Basic ${btoa(`admin:${password}`)}`
const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** Blobs of a few megabytes, none a multiple of a read, pushed to both. */
const blobs = Array.from({ length: 6 }, (_, index) => randomBytes(5 * 1024 * 1024 + index * 700_001 + 13))
for (const blob of blobs)
  for (const registry of [plain, secure])
    await new Promise<void>((resolve, reject) => {
      const send = registry === plain ? request : secureRequest
      const upload = send(
        `${registry.url}/v2/down/app/blobs/uploads/?digest=${sha256(blob)}`,
        { method: 'POST', ca, headers: { authorization, 'content-length': blob.length } },
        (response) => {
          response.resume()
          response.statusCode === 201 ? response.once('end', resolve) : reject(new Error(String(response.statusCode)))
        },
      )
      upload.once('error', reject)
      upload.end(blob)
    })

/** How a client reads: at once, with pauses, or not to the end. */
type Pace = 'fast' | 'slow' | 'gives up'
const paces: Pace[] = ['fast', 'slow', 'gives up', 'fast']

interface Body {
  on(event: 'data', listener: (chunk: Buffer) => void): unknown
  once(event: 'end' | 'error' | 'close', listener: () => void): unknown
  pause(): unknown
  resume(): unknown
  destroy(): unknown
}
async function digestOf(body: Body, pace: Pace): Promise<string | undefined> {
  const hash = createHash('sha256')
  let size = 0
  return await new Promise((resolve) => {
    body.on('data', (chunk) => {
      hash.update(chunk)
      size += chunk.length
      if (pace === 'gives up' && size > 2_000_000) {
        body.destroy()
        resolve(undefined)
      } else if (pace === 'slow' && Math.random() < 0.2) {
        body.pause()
        setTimeout(() => body.resume(), Math.random() * 20)
      }
    })
    body.once('end', () => resolve(`sha256:${hash.digest('hex')}`))
    body.once('error', () => resolve(undefined))
  })
}

const over: Record<string, (path: string, pace: Pace) => Promise<string | undefined>> = {
  'HTTP/1.1': (path, pace) =>
    new Promise((resolve, reject) =>
      request(`${plain.url}${path}`, { headers: { authorization } }, (response) => resolve(digestOf(response, pace)))
        .once('error', reject)
        .end(),
    ),
  'HTTP/1.1 with TLS': (path, pace) =>
    new Promise((resolve, reject) =>
      secureRequest(`${secure.url}${path}`, { ca, headers: { authorization } }, (response) => resolve(digestOf(response, pace)))
        .once('error', reject)
        .end(),
    ),
  'HTTP/2': async (path, pace) => {
    const session = connect(secure.url, { ca })
    session.on('error', () => undefined)
    const stream = session.request({ ':path': path, authorization })
    stream.on('error', () => undefined)
    const digest = await digestOf(stream, pace)
    session.destroy()
    return digest
  },
}
for (const [name, get] of Object.entries(over))
  test(`${name}: many downloads at once, fast, slow and given up, are what was pushed`, async () => {
    // No more at once than have large reads, whose buffers are used again.
    for (let round = 0; round < 6; round++)
      await Promise.all(
        blobs.map(async (blob, index) => {
          const digest = sha256(blob)
          const pace = paces[(index + round) % paces.length] as Pace
          const got = await get(`/v2/down/app/blobs/${digest}`, pace)
          if (pace === 'gives up') assert.equal(got, undefined)
          else assert.equal(got, digest, pace)
        }),
      )
  })
