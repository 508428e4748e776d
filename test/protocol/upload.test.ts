import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { errorCode, pushBlob, sha256, sha512 } from '../support/oci.ts'
import { type TestRegistry, testRegistry } from '../support/registry.ts'

const registry = await testRegistry()

async function start(name: string): Promise<string> {
  const response = await registry.fetch('POST', `/v2/${name}/blobs/uploads/`)
  assert.equal(response.status, 202)
  return response.headers.get('location') as string
}
const bytes = (response: Response) => response.arrayBuffer().then((buffer) => Buffer.from(buffer))
const pulled = async (name: string, digest: string) => await bytes(await registry.fetch('GET', `/v2/${name}/blobs/${digest}`))

test('POST answers 202 with what docker reads: Location, Range 0-0, upload id, no body', async () => {
  const response = await registry.fetch('POST', '/v2/up/a/blobs/uploads/')
  assert.equal(response.status, 202)
  const id = response.headers.get('docker-upload-uuid') as string
  assert.equal(response.headers.get('location'), `/v2/up/a/blobs/uploads/${id}`)
  assert.equal(response.headers.get('range'), '0-0')
  assert.equal(response.headers.get('content-length'), '0')
  assert.equal(response.headers.get('docker-distribution-api-version'), 'registry/2.0')
})

test('POST without the final slash is the same endpoint, no redirect', async () => {
  assert.equal((await registry.fetch('POST', '/v2/up/a/blobs/uploads')).status, 202)
})

test('an open upload makes no repository visible', async () => {
  await start('up/invisible')
  assert.equal((await registry.fetch('GET', '/v2/up/invisible/tags/list')).status, 404)
})

test('a whole blob in one POST (end-4b)', async () => {
  const content = randomBytes(5000)
  const response = await registry.fetch('POST', `/v2/up/post/blobs/uploads/?digest=${sha256(content)}`, { body: content })
  assert.equal(response.status, 201)
  assert.equal(response.headers.get('location'), `/v2/up/post/blobs/${sha256(content)}`)
  assert.equal(response.headers.get('docker-content-digest'), sha256(content))
  assert.deepEqual(await pulled('up/post', sha256(content)), content)
})

test('POST with a wrong digest is 400 and stores nothing', async () => {
  const digest = sha256('something else')
  const response = await registry.fetch('POST', `/v2/up/post/blobs/uploads/?digest=${digest}`, { body: 'this' })
  assert.equal(response.status, 400)
  assert.equal(await errorCode(response), 'DIGEST_INVALID')
  assert.equal((await registry.fetch('HEAD', `/v2/up/post/blobs/${digest}`)).status, 404)
})

test('POST then PUT with everything', async () => {
  const content = randomBytes(70_000)
  const location = await start('up/put')
  const response = await registry.fetch('PUT', `${location}?digest=${encodeURIComponent(sha256(content))}`, { body: content })
  assert.equal(response.status, 201)
  assert.deepEqual(await pulled('up/put', sha256(content)), content)
})

test('docker: one PATCH without a length, then an empty PUT', async () => {
  const content = randomBytes(300_000)
  const location = await start('up/docker')
  const patch = await registry.fetch('PATCH', location, { body: new Blob([content]).stream(), duplex: 'half' })
  assert.equal(patch.status, 202)
  assert.equal(patch.headers.get('range'), `0-${content.length - 1}`)
  assert.equal((await registry.fetch('PUT', `${location}?digest=${sha256(content)}`)).status, 201)
  assert.deepEqual(await pulled('up/docker', sha256(content)), content)
})

for (const algorithm of ['sha256', 'sha512'] as const) {
  test(`chunks with Content-Range, the last one in the PUT, ${algorithm}`, async () => {
    const content = randomBytes(10_000)
    const digest = (algorithm === 'sha256' ? sha256 : sha512)(content)
    let location = await start('up/chunks')
    for (const [first, last] of [
      [0, 3999],
      [4000, 4000],
      [4001, 8999],
    ] as const) {
      const response = await registry.fetch('PATCH', location, {
        body: content.subarray(first, last + 1),
        headers: { 'content-range': `${first}-${last}`, 'content-type': 'application/octet-stream' },
      })
      assert.equal(response.status, 202)
      assert.equal(response.headers.get('range'), `0-${last}`)
      location = response.headers.get('location') as string
    }
    const put = await registry.fetch('PUT', `${location}?digest=${digest}`, {
      body: content.subarray(9000),
      headers: { 'content-range': '9000-9999' },
    })
    assert.equal(put.status, 201)
    assert.equal(put.headers.get('docker-content-digest'), digest)
    assert.deepEqual(await pulled('up/chunks', digest), content)
  })
}

test('a chunk out of order is 416, in PATCH and in PUT; the session stays, says where it is, and goes on', async () => {
  const content = randomBytes(3000)
  const location = await start('up/order')
  const early = await registry.fetch('PATCH', location, {
    body: content.subarray(1000),
    headers: { 'content-range': '1000-2999' },
  })
  assert.equal(early.status, 416)
  assert.equal(await errorCode(early), 'BLOB_UPLOAD_INVALID')
  assert.equal(early.headers.get('location'), location)
  assert.equal(early.headers.get('range'), null, 'at offset 0 there is no range to name')
  const chunk = { body: content.subarray(0, 1000), headers: { 'content-range': '0-999' } }
  assert.equal((await registry.fetch('PATCH', location, chunk)).status, 202)
  const again = await registry.fetch('PATCH', location, chunk)
  assert.equal(again.status, 416)
  assert.equal(again.headers.get('range'), '0-999')
  const last = await registry.fetch('PUT', `${location}?digest=${sha256(content)}`, {
    body: content.subarray(2000),
    headers: { 'content-range': '2000-2999' },
  })
  assert.equal(last.status, 416)
  const status = await registry.fetch('GET', `${location}?digest=${sha256(content)}`)
  assert.equal(status.status, 204)
  assert.equal(status.headers.get('range'), '0-999')
  const rest = { body: content.subarray(1000), headers: { 'content-range': '1000-2999' } }
  assert.equal((await registry.fetch('PATCH', location, rest)).status, 202)
  assert.equal((await registry.fetch('PUT', `${location}?digest=${sha256(content)}`)).status, 201)
  assert.deepEqual(await pulled('up/order', sha256(content)), content)
})

test('status of an empty upload is 0--1 for who resumes, and garbage in Content-Range is 400', async () => {
  const location = await start('up/status')
  assert.equal((await registry.fetch('GET', location)).headers.get('range'), '0--1')
  const garbage = await registry.fetch('PATCH', location, { body: 'x', headers: { 'content-range': 'nonsense' } })
  assert.equal(garbage.status, 400)
  assert.equal(await errorCode(garbage), 'BLOB_UPLOAD_INVALID')
  const short = await registry.fetch('PATCH', location, { body: 'x', headers: { 'content-range': '0-9' } })
  assert.equal(short.status, 400)
  assert.equal(await errorCode(short), 'SIZE_INVALID')
  assert.equal((await registry.fetch('GET', location)).headers.get('range'), '0--1')
})

test('an empty PATCH says 0-0 and changes nothing', async () => {
  const location = await start('up/status')
  const response = await registry.fetch('PATCH', location)
  assert.equal(response.status, 202)
  assert.equal(response.headers.get('range'), '0-0')
})

test('a wrong digest at the end is 400; the session and what it held stay, the right digest then works', async () => {
  const content = randomBytes(2000)
  const location = await start('up/wrong')
  await registry.fetch('PATCH', location, { body: content.subarray(0, 1000) })
  const wrong = await registry.fetch('PUT', `${location}?digest=${sha256('no')}`, { body: content.subarray(1000) })
  assert.equal(wrong.status, 400)
  assert.equal(await errorCode(wrong), 'DIGEST_INVALID')
  assert.equal((await registry.fetch('GET', location)).headers.get('range'), '0-999')
  assert.equal(
    (await registry.fetch('PUT', `${location}?digest=${sha256(content)}`, { body: content.subarray(1000) })).status,
    201,
  )
  assert.deepEqual(await pulled('up/wrong', sha256(content)), content)
})

test('missing, malformed and unsupported digests are 400 DIGEST_INVALID', async () => {
  const location = await start('up/wrong')
  for (const query of ['', '?digest=sha256:abc', '?digest=md5:d41d8cd98f00b204e9800998ecf8427e', '?digest=nonsense']) {
    const response = await registry.fetch('PUT', `${location}${query}`, { body: 'x' })
    assert.equal(response.status, 400, query)
    assert.equal(await errorCode(response), 'DIGEST_INVALID')
  }
  assert.equal((await registry.fetch('POST', '/v2/up/a/blobs/uploads/?digest-algorithm=md5')).status, 400)
  assert.equal((await registry.fetch('POST', '/v2/up/a/blobs/uploads/?digest-algorithm=sha512')).status, 202)
})

test('an empty blob, by PUT, by chunked PUT and by POST', async () => {
  const location = await start('up/empty')
  assert.equal((await registry.fetch('PUT', `${location}?digest=${sha256('')}`)).status, 201)
  const head = await registry.fetch('HEAD', `/v2/up/empty/blobs/${sha256('')}`)
  assert.equal(head.headers.get('content-length'), '0')
  const streamed = await start('up/empty2')
  const body = new Blob([]).stream()
  assert.equal((await registry.fetch('PUT', `${streamed}?digest=${sha256('')}`, { body, duplex: 'half' })).status, 201)
  assert.equal((await registry.fetch('POST', `/v2/up/empty3/blobs/uploads/?digest=${sha256('')}`)).status, 201)
})

test('a PUT repeated after its 201 was lost is 201 again (S13); with another digest it is 404', async () => {
  const content = randomBytes(100)
  const location = await start('up/lost')
  assert.equal((await registry.fetch('PUT', `${location}?digest=${sha256(content)}`, { body: content })).status, 201)
  assert.equal((await registry.fetch('PUT', `${location}?digest=${sha256(content)}`, { body: content })).status, 201)
  assert.equal((await registry.fetch('PUT', `${location}?digest=${sha256('other')}`)).status, 404)
})

test('the same blob twice, and two uploads of it at once: 201 each, one copy', async () => {
  const content = randomBytes(5000)
  const answers = await Promise.all(
    [1, 2, 3].map(() => registry.fetch('POST', `/v2/up/twice/blobs/uploads/?digest=${sha256(content)}`, { body: content })),
  )
  assert.deepEqual(
    answers.map((answer) => answer.status),
    [201, 201, 201],
  )
  assert.deepEqual(await pulled('up/twice', sha256(content)), content)
})

test('cancel is 204, then everything about the upload is 404', async () => {
  const location = await start('up/cancel')
  await registry.fetch('PATCH', location, { body: 'abc' })
  assert.equal((await registry.fetch('DELETE', location)).status, 204)
  for (const method of ['GET', 'PATCH', 'DELETE'] as const) {
    const response = await registry.fetch(method, location, method === 'PATCH' ? { body: 'x' } : {})
    assert.equal(response.status, 404)
    assert.equal(await errorCode(response), 'BLOB_UPLOAD_UNKNOWN')
  }
})

test("another repository's and another principal's upload does not exist", async () => {
  const location = await start('up/mine')
  const id = location.split('/').at(-1)
  assert.equal((await registry.fetch('GET', `/v2/up/other/blobs/uploads/${id}`)).status, 404)
  const other = await registry.account('somebody', ['user'])
  assert.equal((await registry.fetch('PATCH', location, { body: 'x', as: other })).status, 404)
  assert.equal((await registry.fetch('GET', location)).headers.get('range'), '0--1')
})

test('mount: from a named repository, from anywhere, and 202 where there is nothing to mount', async () => {
  const digest = await pushBlob(registry, 'up/source', 'mounted content')
  const named = await registry.fetch('POST', `/v2/up/target/blobs/uploads/?mount=${digest}&from=up/source`)
  assert.equal(named.status, 201)
  assert.equal(named.headers.get('location'), `/v2/up/target/blobs/${digest}`)
  assert.equal(named.headers.get('docker-content-digest'), digest)
  assert.equal((await registry.fetch('POST', `/v2/up/target2/blobs/uploads/?mount=${digest}`)).status, 201)
  const missing = await registry.fetch('POST', `/v2/up/target3/blobs/uploads/?mount=${sha256('nowhere')}&from=up/source`)
  assert.equal(missing.status, 202)
  const location = missing.headers.get('location') as string
  assert.equal((await registry.fetch('PUT', `${location}?digest=${sha256('nowhere')}`, { body: 'nowhere' })).status, 201)
  assert.equal((await registry.fetch('DELETE', `/v2/up/target/blobs/${digest}`)).status, 202)
  assert.equal((await registry.fetch('HEAD', `/v2/up/target/blobs/${digest}`)).status, 404)
  assert.equal((await registry.fetch('HEAD', `/v2/up/source/blobs/${digest}`)).status, 200)
})

test('an upload goes on after a request was cut in the middle of its body', async () => {
  await cutPatch(registry)
})

async function cutPatch(target: TestRegistry): Promise<void> {
  const content = randomBytes(400_000)
  const location = await start('up/cut')
  assert.equal((await target.fetch('PATCH', location, { body: content.subarray(0, 100_000) })).status, 202)
  await target.cut('PATCH', location, content.subarray(100_000), 50_000)
  const status = await target.fetch('GET', location)
  assert.equal(status.headers.get('range'), '0-99999')
  assert.equal((await target.fetch('PATCH', location, { body: content.subarray(100_000) })).status, 202)
  assert.equal((await target.fetch('PUT', `${location}?digest=${sha256(content)}`)).status, 201)
  assert.deepEqual(await pulled('up/cut', sha256(content)), content)
}
