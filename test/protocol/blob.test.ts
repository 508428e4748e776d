import assert from 'node:assert/strict'
import { test } from 'node:test'
import { errorCode, pushBlob, sha256 } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry()
const content = Buffer.from(Array.from({ length: 2048 }, (_, index) => (index * 7) & 255))
const digest = await pushBlob(registry, 'b/app', content)
const path = `/v2/b/app/blobs/${digest}`

test('GET and HEAD agree on every header a client reads', async () => {
  for (const method of ['GET', 'HEAD'] as const) {
    const response = await registry.fetch(method, path)
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('content-length'), '2048')
    assert.equal(response.headers.get('content-type'), 'application/octet-stream')
    assert.equal(response.headers.get('docker-content-digest'), digest)
    assert.equal(response.headers.get('accept-ranges'), 'bytes')
    assert.equal(response.headers.get('etag'), `"${digest}"`)
    assert.match(response.headers.get('cache-control') as string, /immutable/)
    assert.equal(response.headers.get('x-content-type-options'), 'nosniff')
    assert.equal((await response.arrayBuffer()).byteLength, method === 'GET' ? 2048 : 0)
  }
})

const ranges: [range: string, status: number, contentRange: string | null, length: number][] = [
  ['bytes=500-1499', 206, 'bytes 500-1499/2048', 1000],
  ['bytes=500-', 206, 'bytes 500-2047/2048', 1548],
  ['bytes=-500', 206, 'bytes 1548-2047/2048', 500],
  ['bytes=2000-5000', 206, 'bytes 2000-2047/2048', 48],
  ['bytes=-5000', 206, 'bytes 0-2047/2048', 2048],
  ['bytes=500-0', 416, 'bytes */2048', -1],
  ['bytes=5000-10000', 416, 'bytes */2048', -1],
  ['bytes=2048-', 416, 'bytes */2048', -1],
  ['bytes=-0', 416, 'bytes */2048', -1],
  ['bytes=abc', 416, 'bytes */2048', -1],
  ['items=0-3', 200, null, 2048],
]
for (const [range, status, contentRange, length] of ranges) {
  test(`Range: ${range} is ${status}`, async () => {
    const response = await registry.fetch('GET', path, { headers: { range } })
    assert.equal(response.status, status)
    assert.equal(response.headers.get('content-range'), contentRange)
    const body = Buffer.from(await response.arrayBuffer())
    if (length < 0) return
    assert.equal(response.headers.get('content-length'), String(length))
    const [first, last] = (contentRange ?? 'bytes 0-2047/2048').slice(6).split('/')[0]!.split('-').map(Number) as [number, number]
    assert.deepEqual(body, content.subarray(first, last + 1))
  })
}

test('1,024 ranges come as 1,024 parts in the order asked; one more is 400, which makes podman halve them', async () => {
  const wanted = Array.from({ length: 1024 }, (_, index) => [(index * 13) % 2000, ((index * 13) % 2000) + 3] as const)
  const header = (list: readonly (readonly [number, number])[]) =>
    `bytes=${list.map(([first, last]) => `${first}-${last}`).join(',')}`
  const response = await registry.fetch('GET', path, { headers: { range: header(wanted) } })
  assert.equal(response.status, 206)
  const boundary = /^multipart\/byteranges; boundary=(.+)$/.exec(response.headers.get('content-type') as string)?.[1] as string
  const body = Buffer.from(await response.arrayBuffer()).toString('latin1')
  assert.equal(String(body.length), response.headers.get('content-length'))
  const parts = body.split(`--${boundary}`).slice(1, -1)
  assert.equal(parts.length, 1024)
  parts.forEach((part, index) => {
    const [first, last] = wanted[index] as [number, number]
    const [head, data] = part.split('\r\n\r\n') as [string, string]
    assert.match(head, new RegExp(`Content-Range: bytes ${first}-${last}/2048`))
    assert.equal(data.slice(0, last - first + 1), content.subarray(first, last + 1).toString('latin1'))
  })
  const many = await registry.fetch('GET', path, { headers: { range: header([...wanted, [0, 1]]) } })
  assert.equal(many.status, 400)
})

test('If-Range: the strong tag keeps the range, anything else sends the whole; If-None-Match is 304', async () => {
  const kept = await registry.fetch('GET', path, { headers: { range: 'bytes=0-9', 'if-range': `"${digest}"` } })
  assert.equal(kept.status, 206)
  await kept.arrayBuffer()
  const whole = await registry.fetch('GET', path, { headers: { range: 'bytes=0-9', 'if-range': '"other"' } })
  assert.equal(whole.status, 200)
  await whole.arrayBuffer()
  assert.equal((await registry.fetch('GET', path, { headers: { 'if-none-match': `"${digest}"` } })).status, 304)
})

test('absent and malformed digests; a range of an empty blob', async () => {
  const absent = await registry.fetch('GET', `/v2/b/app/blobs/${sha256('absent')}`)
  assert.equal(absent.status, 404)
  assert.equal(await errorCode(absent), 'BLOB_UNKNOWN')
  assert.equal((await registry.fetch('GET', '/v2/b/app/blobs/sha256:xyz')).status, 400)
  const empty = await pushBlob(registry, 'b/app', '')
  const response = await registry.fetch('GET', `/v2/b/app/blobs/${empty}`, { headers: { range: 'bytes=0-3' } })
  assert.equal(response.status, 200)
  assert.equal(response.headers.get('content-length'), '0')
})

test('a blob is deleted here and nowhere else, at once', async () => {
  const shared = await pushBlob(registry, 'b/one', 'shared')
  await pushBlob(registry, 'b/two', 'shared')
  assert.equal((await registry.fetch('DELETE', `/v2/b/one/blobs/${shared}`)).status, 202)
  assert.equal((await registry.fetch('GET', `/v2/b/one/blobs/${shared}`)).status, 404)
  assert.equal((await registry.fetch('GET', `/v2/b/two/blobs/${shared}`)).status, 200)
  assert.equal((await registry.fetch('DELETE', `/v2/b/nowhere/blobs/${shared}`)).status, 404)
  await pushBlob(registry, 'b/one', 'shared')
  assert.equal((await registry.fetch('HEAD', `/v2/b/one/blobs/${shared}`)).status, 200)
})
