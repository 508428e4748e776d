import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, request as httpRequest, type Server } from 'node:http'
import { createServer as createHttp2Server, type Http2Server } from 'node:http2'
import { type AddressInfo, connect } from 'node:net'
import { type TestContext, test } from 'node:test'
import { Response as PonyfillResponse } from '@whatwg-node/fetch'
import { createServerAdapter } from '@whatwg-node/server'
import { digestOf, openTestBlobs, randomBytesOf, storeBlob, treeOf } from '../support/blobs.ts'

/** A store behind the adapter: PUT writes a segment and answers its digest or the error's code; GET sends a blob of 8,000,000 bytes. */
async function serve(t: TestContext, kind: 'http' | 'http2') {
  const { store, root, openFiles } = await openTestBlobs(t)
  const outcomes: string[] = []
  const content = randomBytesOf(8_000_000)
  const digest = await storeBlob(store, 'stored', content)
  const adapter = createServerAdapter(async (request) => {
    if (request.method === 'GET') return new PonyfillResponse((await store.open(digest, 'stored', content.length)) as never)
    const outcome = await store.writeSegment('up', request.body, { limit: 1e9 }).then(
      ({ sha256 }) => sha256,
      (error) => error.code as string,
    )
    outcomes.push(outcome)
    return new PonyfillResponse(outcome)
  })
  const server: Server | Http2Server = kind === 'http' ? createServer(adapter as never) : createHttp2Server(adapter as never)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    if ('closeAllConnections' in server) server.closeAllConnections()
  })
  const { port } = server.address() as AddressInfo
  const uploads = () => treeOf(root).filter((path) => path.startsWith('uploads/'))
  return { store, server, port, outcomes, uploads, content, openFiles }
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 2000, 'it never happened')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

test('a request body is stored as it came, with and without a length', async (t) => {
  const { port, content, outcomes } = await serve(t, 'http')
  for (const headers of [{ 'content-length': content.length }, { 'transfer-encoding': 'chunked' }]) {
    const request = httpRequest({ port, host: '127.0.0.1', method: 'PUT', path: '/', headers, agent: false })
    for (let at = 0; at < content.length; at += 500_000) request.write(content.subarray(at, at + 500_000))
    request.end()
    const [response] = await once(request, 'response')
    assert.equal(Buffer.concat(await response.toArray()).toString(), digestOf(content))
  }
  assert.equal(outcomes.length, 2)
})

test('a client that leaves in the middle of its body leaves nothing behind', async (t) => {
  const { port, outcomes, uploads } = await serve(t, 'http')
  const heads = ['Content-Length: 5000000', 'Transfer-Encoding: chunked']
  for (const head of heads)
    for (const leave of ['destroy', 'end', 'resetAndDestroy'] as const) {
      const socket = connect(port, '127.0.0.1').on('error', () => undefined)
      const body = randomBytesOf(3_000_000)
      socket.write(`PUT / HTTP/1.1\r\nHost: x\r\n${head}\r\n\r\n`)
      if (head.startsWith('T')) socket.write(`${(body.length + 1).toString(16)}\r\n`)
      socket.write(body)
      await until(() => uploads().length > 0)
      const before = outcomes.length
      socket[leave]()
      await until(() => outcomes.length > before)
    }
  assert.deepEqual(outcomes, Array(6).fill('BLOB_CUT'))
  assert.deepEqual(uploads(), [])
})

/** An HTTP/2 frame: length, type, flags, stream, payload (RFC 9113 §4.1). */
function frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head.writeUInt8(type, 3)
  head.writeUInt8(flags, 4)
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** `:method PUT`, `:scheme http`, `:path /`, `:authority x`, by static table and plain literals (RFC 7541). */
const headers = Buffer.concat([Buffer.from([0x02, 3]), Buffer.from('PUT'), Buffer.from([0x86, 0x84, 0x01, 1]), Buffer.from('x')])

for (const [name, end] of [
  ['reset with CANCEL', frame(3, 0, 1, Buffer.from([0, 0, 0, 8]))],
  ['reset with NO_ERROR', frame(3, 0, 1, Buffer.from([0, 0, 0, 0]))],
  ['whose connection goes away', undefined],
] as const)
  test(`an HTTP/2 stream ${name} is a cut body, not a short one`, async (t) => {
    const { port, outcomes, uploads, server } = await serve(t, 'http2')
    server.on('sessionError', () => undefined)
    const socket = connect(port, '127.0.0.1').on('error', () => undefined)
    t.after(() => socket.destroy())
    socket.write(Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0, Buffer.alloc(0))]))
    socket.write(Buffer.concat([frame(1, 4, 1, headers), frame(0, 0, 1, randomBytesOf(16_000))]))
    await until(() => uploads().length > 0)
    if (end) socket.write(end)
    else socket.destroy()
    await until(() => outcomes.length > 0)
    assert.deepEqual(outcomes, ['BLOB_CUT'])
    assert.deepEqual(uploads(), [])
  })

test('an HTTP/2 stream that ends is whole', async (t) => {
  const { port, outcomes } = await serve(t, 'http2')
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  socket.write(Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0, Buffer.alloc(0))]))
  socket.write(Buffer.concat([frame(1, 4, 1, headers), frame(0, 1, 1, randomBytesOf(16_000))]))
  await until(() => outcomes.length > 0)
  assert.deepEqual(outcomes, [digestOf(randomBytesOf(16_000))])
})

test('downloads that are read, left in the middle or not read at all give their descriptors back', async (t) => {
  const { port, content, openFiles } = await serve(t, 'http')
  const get = async () => {
    const request = httpRequest({ port, host: '127.0.0.1', path: '/', agent: false }).end()
    const [response] = await once(request, 'response')
    return response
  }
  assert.deepEqual(Buffer.concat(await (await get()).toArray()), content)
  await until(() => openFiles() > 0)
  const settled = await quiet(openFiles)
  for (let round = 0; round < 20; round++) {
    const [whole, left, unread] = await Promise.all([get(), get(), get()])
    left.once('data', () => left.destroy())
    left.on('error', () => undefined)
    unread.on('error', () => undefined).destroy()
    assert.equal(
      (await whole.toArray()).reduce((sum: number, chunk: Buffer) => sum + chunk.length, 0),
      content.length,
    )
  }
  await until(() => openFiles() <= settled)
})

/** The number once it has not changed for a while. */
async function quiet(count: () => number): Promise<number> {
  for (let last = count(), same = 0; ; ) {
    await new Promise((resolve) => setTimeout(resolve, 10))
    const now = count()
    same = now === last ? same + 1 : 0
    last = now
    if (same === 10) return now
  }
}
