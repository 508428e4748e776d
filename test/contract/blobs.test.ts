import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { Request as PonyfillRequest, Response as PonyfillResponse } from '@whatwg-node/fetch'
import type { Digest } from '../../lib/oci/digest.ts'
import { openBlobsFs } from '../../runtime/blobs-fs.ts'
import { createSpace } from '../../runtime/space.ts'
import { bytesOf, digestOf, openTestBlobs, randomBytesOf, source, storeBlob, treeOf } from '../support/blobs.ts'

const limit = 1024 ** 3

test('a body becomes one read-only file with its size and digest, then the blob', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const content = randomBytesOf(3_000_000)
  const segment = await store.writeSegment('up1', source(content), { limit, expected: content.length })
  assert.deepEqual({ size: segment.size, sha256: segment.sha256 }, { size: content.length, sha256: digestOf(content) })
  assert.ok(segment.part.startsWith('up1.'))
  assert.equal(statSync(`${root}/uploads/${segment.part}`).mode & 0o777, 0o444)
  assert.equal(await store.segmentsIntact('up1', [segment]), true)
  assert.equal(await store.segmentsIntact('up1', [{ ...segment, size: 1 }]), false)

  await store.commit('up1', segment.part, segment.sha256)
  const hex = segment.sha256.slice(7)
  assert.deepEqual(treeOf(root), [`blobs/sha256/${hex.slice(0, 2)}/${hex}.up1`])
  assert.equal(await store.stat(segment.sha256, 'up1'), content.length)
  assert.equal(await store.stat(segment.sha256, 'up2'), undefined)
  assert.deepEqual(await bytesOf(await store.open(segment.sha256, 'up1', content.length)), content)
  assert.equal(await store.segmentsIntact('up1', [segment]), false)
})

test('every kind of body is read: none, bytes, a Node stream, a web stream, the request of either kind', async (t) => {
  const { store } = await openTestBlobs(t)
  const content = randomBytesOf(200_000)
  const bodies: [unknown, Uint8Array][] = [
    [null, new Uint8Array()],
    [undefined, new Uint8Array()],
    [Readable.from([]), new Uint8Array()],
    [content, content],
    [source(content), content],
    [webStream([content.subarray(0, 7), content.subarray(7)]), content],
    [new Request('http://x/', { method: 'PUT', body: new Uint8Array(content) }).body, content],
    [new PonyfillRequest('http://x/', { method: 'PUT', body: new Uint8Array(content) }).body, content],
  ]
  for (const [body, expected] of bodies) {
    const { size, sha256 } = await store.writeSegment('up', body, { limit })
    assert.deepEqual({ size, sha256 }, { size: expected.length, sha256: digestOf(expected) })
  }
  await assert.rejects(store.writeSegment('up', 'text', { limit }), { code: 'BLOB_IO' })
})

test('a body of the wrong length is refused and nothing of it stays', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const refuse = (bytes: number, options: { limit: number; expected?: number }, code: string) =>
    assert.rejects(store.writeSegment('up', source(randomBytesOf(bytes)), options), { code })
  await refuse(5_000_000, { limit: 4_000_000 }, 'BLOB_TOO_LARGE')
  await refuse(0, { limit: 10, expected: 11 }, 'BLOB_TOO_LARGE')
  await refuse(5_000_000, { limit, expected: 4_999_999 }, 'BLOB_LENGTH')
  await refuse(5_000_000, { limit, expected: 5_000_001 }, 'BLOB_LENGTH')
  assert.deepEqual(treeOf(root), [])
  const exact = await store.writeSegment('up', source(randomBytesOf(4_000_000)), { limit: 4_000_000 })
  assert.equal(exact.size, 4_000_000)
})

test('a body that is cut, before or while it is read, leaves nothing', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const ends: ((body: Readable) => void)[] = [
    (body) => body.destroy(),
    (body) => body.destroy(new Error('reset')),
    (body) => {
      // HTTP/2 ends a stream that was reset as if it were whole, and only says `aborted` before.
      Object.assign(body, { aborted: true }).push(null)
    },
  ]
  for (const end of ends) {
    const body = new Readable({ read() {} })
    // As the server does: a client may be gone before anybody reads.
    body.on('error', () => undefined)
    body.push(randomBytesOf(3_000_000))
    const written = store.writeSegment('up', body, { limit })
    setTimeout(end, 5, body)
    await assert.rejects(written, { code: 'BLOB_CUT' })
  }
  const gone = new Readable({ read() {} })
  gone.destroy()
  await assert.rejects(store.writeSegment('up', gone, { limit }), { code: 'BLOB_CUT' })
  assert.deepEqual(treeOf(root), [])
})

test('a body that stalls is given up', async (t) => {
  const { store, root } = await openTestBlobs(t, { minBytesPerSecond: 1000, rateWindowMs: 20 })
  const stalled = new Readable({ read() {} })
  stalled.push(randomBytesOf(10))
  await assert.rejects(store.writeSegment('up', stalled, { limit }), { code: 'BLOB_SLOW' })
  assert.deepEqual(treeOf(root), [])
  stalled.destroy()
})

test('no upload begins when less than the floor would stay free', async (t) => {
  const { bavail, bsize } = statfsSync(tmpdir())
  const free = bavail * bsize
  const spaceOf = (floorBytes: number) =>
    createSpace({ directory: tmpdir(), blobsDirectory: tmpdir(), floorBytes, ballastBytes: 0, log: () => undefined })
  const { store, root } = await openTestBlobs(t, { admit: spaceOf(0).admit })
  const floored = await openTestBlobs(t, { admit: spaceOf(free * 2).admit })
  await assert.rejects(floored.store.writeSegment('up', source(randomBytesOf(10)), { limit }), { code: 'BLOB_FULL' })
  await assert.rejects(store.writeSegment('up', null, { limit: free * 4, expected: free * 2 }), { code: 'BLOB_FULL' })
  await assert.rejects(floored.store.join('up', [], 'sha256'), { code: 'BLOB_FULL' })
  assert.deepEqual([...treeOf(root), ...treeOf(floored.root)], [])
})

test('a commit done twice, or found done, is the same; without source and target it fails', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const segment = await store.writeSegment('up', source(randomBytesOf(100)), { limit })
  await store.commit('up', segment.part, segment.sha256)
  await store.commit('up', segment.part, segment.sha256)
  // A second finisher joined the same bytes once more.
  const again = await store.writeSegment('up', source(randomBytesOf(100)), { limit })
  await store.commit('up', again.part, segment.sha256)
  assert.equal(treeOf(root).length, 1)
  await assert.rejects(store.commit('up', 'up.none', digestOf(Buffer.from('other'))), { code: 'BLOB_IO' })
})

test('a directory that was tidied away comes back', async (t) => {
  const { store, root, rmdir } = await openTestBlobs(t)
  const content = randomBytesOf(100)
  const digest = await storeBlob(store, 'up1', content)
  await store.remove([{ incarnation: 'up1', digest }])
  rmdir(`${root}/blobs/sha256/${digest.slice(7, 9)}`)
  assert.equal(await storeBlob(store, 'up2', content), digest)
  assert.equal(await store.stat(digest, 'up2'), 100)
})

test('twenty segments are joined in order, with the digest in the algorithm that was asked', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const parts = Array.from({ length: 20 }, (_, index) => randomBytesOf(index % 3 === 0 ? 2_500_000 + index : index * 1000))
  const whole = Buffer.concat(parts)
  const segments = []
  for (const part of parts) segments.push(await store.writeSegment('up', source(part), { limit }))
  for (const algorithm of ['sha256', 'sha512'] as const) {
    const joined = await store.join('up', segments, algorithm)
    assert.equal(joined.segment.size, whole.length)
    assert.equal(joined.segment.sha256, digestOf(whole))
    assert.equal(joined.digest, digestOf(whole, algorithm))
    assert.equal(await store.hash('up', joined.segment.part, 'sha512'), digestOf(whole, 'sha512'))
    await store.commit('up', joined.segment.part, joined.digest)
    assert.deepEqual(await bytesOf(await store.open(joined.digest, 'up', whole.length)), whole)
  }
  const [first, ...others] = segments
  assert.ok(first)
  await assert.rejects(store.join('up', [{ ...first, size: first.size + 1 }, ...others], 'sha256'), { code: 'BLOB_IO' })
  for (const { part } of segments) await store.dropSegment('up', part)
  for (const { part } of segments) await store.dropSegment('up', part)
  assert.equal(treeOf(root).filter((path) => path.startsWith('uploads/')).length, 0)
})

test('ranges, inclusive at both ends, of small and of large blobs', async (t) => {
  const { store } = await openTestBlobs(t)
  for (const size of [1, 1000, 65_536, 65_537, 2_500_000]) {
    const content = randomBytesOf(size)
    const digest = await storeBlob(store, `up${size}`, content)
    const ranges = [
      [0, 0],
      [size - 1, size - 1],
      [0, size - 1],
      [Math.floor(size / 3), Math.floor(size / 2)],
    ] as const
    for (const [first, last] of ranges)
      assert.deepEqual(
        await bytesOf(await store.open(digest, `up${size}`, size, { first, last })),
        content.subarray(first, last + 1),
      )
  }
  const empty = await storeBlob(store, 'empty', Buffer.alloc(0))
  assert.deepEqual(await bytesOf(await store.open(empty, 'empty', 0)), Buffer.alloc(0))
})

test('pieces come in order, literal bytes between ranges of one blob', async (t) => {
  const { store, openFiles } = await openTestBlobs(t)
  const content = randomBytesOf(3_000_000)
  const digest = await storeBlob(store, 'up', content)
  const pieces = [
    Buffer.from('--a\r\n'),
    { first: 2_000_000, last: 2_999_999 },
    new Uint8Array(),
    Buffer.from('--b\r\n'),
    { first: 5, last: 5 },
  ]
  const before = openFiles()
  const body = await store.openPieces(digest, 'up', content.length, [...pieces, Buffer.from('--')])
  assert.equal(openFiles(), before + 1)
  const expected = [
    Buffer.from('--a\r\n'),
    content.subarray(2_000_000),
    Buffer.from('--b\r\n'),
    content.subarray(5, 6),
    Buffer.from('--'),
  ]
  assert.deepEqual(await bytesOf(body), Buffer.concat(expected))
  assert.equal(openFiles(), before)
  assert.equal(await store.openPieces(digest, 'up', 1, pieces), undefined)
})

test('a file that is missing, a link, a directory or of another size is not opened', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const content = randomBytesOf(100_000)
  const digest = await storeBlob(store, 'up', content)
  const path = `${root}/blobs/sha256/${digest.slice(7, 9)}/${digest.slice(7)}`
  assert.equal(await store.open(digest, 'other', content.length), undefined)
  assert.equal(await store.open(digest, 'up', content.length + 1), undefined)
  symlinkSync(`${path}.up`, `${path}.link`)
  assert.equal(await store.open(digest, 'link', content.length), undefined)
  assert.equal(await store.stat(digest, 'link'), undefined)
  mkdirSync(`${path}.dir`)
  assert.equal(await store.open(digest, 'dir', statSync(`${path}.dir`).size), undefined)
  chmodSync(`${path}.up`, 0o644)
  truncateSync(`${path}.up`, 99_999)
  assert.equal(await store.open(digest, 'up', content.length), undefined)
  assert.equal(await store.stat(digest, 'up'), 99_999)
})

test('a file that shrinks while it is sent breaks the body instead of ending it', async (t) => {
  const { store, root, openFiles } = await openTestBlobs(t)
  const digest = await storeBlob(store, 'up', randomBytesOf(8_000_000))
  const path = `${root}/blobs/sha256/${digest.slice(7, 9)}/${digest.slice(7)}.up`
  const before = openFiles()
  const body = await store.open(digest, 'up', 8_000_000)
  chmodSync(path, 0o644)
  truncateSync(path, 5_000_000)
  await assert.rejects(bytesOf(body), { code: 'BLOB_IO' })
  assert.equal(openFiles(), before)
})

test('a body gives its descriptor back however it ends', async (t) => {
  const { store, openFiles } = await openTestBlobs(t)
  const size = 5_000_000
  const digest = await storeBlob(store, 'up', randomBytesOf(size))
  const before = openFiles()
  const closed = (body: Readable) => new Promise((resolve) => body.once('close', resolve))
  for (let round = 0; round < 20; round++) {
    const [unread, cut, failed, cancelled] = (await Promise.all(
      [1, 2, 3, 4].map(() => store.open(digest, 'up', size)),
    )) as unknown as [Readable, Readable, Readable, Readable]
    const all = [unread, cut, failed, cancelled].map(closed)
    unread.destroy()
    cut.once('data', () => cut.destroy())
    failed.on('error', () => undefined).once('data', () => failed.destroy(new Error('client gone')))
    await new PonyfillResponse(cancelled as never).body?.cancel()
    await Promise.all(all)
    assert.equal(await store.open(digest, 'up', size - 1), undefined)
    await bytesOf(await store.open(digest, 'up', size, { first: 0, last: 9 }))
  }
  assert.equal(openFiles(), before)
})

test('removal takes the blob and what is left of its upload, and no neighbour', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const digest = await storeBlob(store, 'up', randomBytesOf(10))
  await store.writeSegment('up', source(randomBytesOf(11)), { limit })
  const other = await store.writeSegment('up2', source(randomBytesOf(12)), { limit })
  await store.remove([{ incarnation: 'up', digest }])
  assert.deepEqual(treeOf(root), [`uploads/${other.part}`])
  await store.remove([{ incarnation: 'up', digest }])
  await store.remove([{ incarnation: 'never' }])
})

test('removal says what became free: not the bytes that another name keeps, and what cannot go stands in no way', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const alone = await storeBlob(store, 'alone', randomBytesOf(100))
  const linked = await storeBlob(store, 'linked', randomBytesOf(1000))
  const stuck = await storeBlob(store, 'stuck', randomBytesOf(10))
  const pathOf = (digest: string, inc: string) => `${root}/blobs/sha256/${digest.slice(7, 9)}/${digest.slice(7)}.${inc}`
  linkSync(pathOf(linked, 'linked'), `${root}/snapshot`)
  rmSync(pathOf(stuck, 'stuck'))
  mkdirSync(pathOf(stuck, 'stuck'))
  assert.deepEqual(await store.weigh(linked, 'linked'), { size: 1000, otherNames: 1 })
  assert.deepEqual(await store.weigh(alone, 'alone'), { size: 100, otherNames: 0 })
  const dead = [
    { incarnation: 'stuck', digest: stuck },
    { incarnation: 'linked', digest: linked },
    { incarnation: 'alone', digest: alone },
  ]
  const { failed, ...removed } = await store.remove(dead)
  assert.deepEqual(removed, { files: 2, bytes: 100, shared: 1000 })
  assert.deepEqual(
    failed.map(({ incarnation }) => incarnation),
    ['stuck'],
  )
  assert.equal(await store.weigh(alone, 'alone'), undefined)
})

test('how far files were removed only grows, whoever writes it, and outlives the store', async (t) => {
  const { store, options } = await openTestBlobs(t)
  assert.equal(await store.lastReaped(), 0)
  await Promise.all([7, 3, 12, 9].map((seq) => store.noteReaped(seq)))
  await store.noteReaped(5)
  assert.equal(await store.lastReaped(), 12)
  const again = await openBlobsFs(options)
  assert.equal(await again.lastReaped(), 12)
})

test('the list names every file by incarnation, blobs by digest and segments by part', async (t) => {
  const { store } = await openTestBlobs(t)
  const digest = await storeBlob(store, 'one', randomBytesOf(10))
  const { part } = await store.writeSegment('two', source(randomBytesOf(10)), { limit })
  const found = []
  for await (const files of store.list()) found.push(...files)
  assert.deepEqual(found, [
    { incarnation: 'two', part },
    { incarnation: 'one', digest },
  ])
})

test('names never lead out of the store', async (t) => {
  const { store, root } = await openTestBlobs(t)
  writeFileSync(`${root}/outside`, 'x')
  const digest = digestOf(Buffer.from('x'))
  for (const inc of ['../outside', '..', '', 'a/b', 'a\0']) {
    await assert.rejects(store.writeSegment(inc, null, { limit }), { code: 'BLOB_IO' })
    await assert.rejects(store.stat(digest, inc), { code: 'BLOB_IO' })
    await assert.rejects(store.dropSegment(inc, `${inc}.x`), { code: 'BLOB_IO' })
  }
  await assert.rejects(store.dropSegment('up', 'other.1'), { code: 'BLOB_IO' })
})

test('fifty slow bodies at once are held in small batches', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const content = randomBytesOf(2_000_000)
  const stallAt = 1_900_000
  const gate = Promise.withResolvers<void>()
  t.after(() => gate.resolve())
  let given = 0
  async function* trickle() {
    for (let at = 0; at < content.length; at += 4096) {
      if (at >= stallAt) await gate.promise
      else await new Promise(setImmediate)
      const chunk = content.subarray(at, at + 4096)
      given += chunk.length
      yield chunk
    }
  }
  const all = Array.from({ length: 50 }, (_, index) => store.writeSegment(`up${index}`, Readable.from(trickle()), { limit }))
  const onDisk = () => readdirSync(`${root}/uploads`).reduce((sum, name) => sum + statSync(`${root}/uploads/${name}`).size, 0)
  let held = 0
  while (given < 50 * stallAt) {
    held = Math.max(held, given - onDisk())
    await new Promise(setImmediate)
  }
  // Two batches of 64 KiB each, and the sixteen chunks that the stream itself keeps.
  assert.ok(held <= 50 * 3 * 65_536, `${held} bytes in memory`)
  gate.resolve()
  for (const { sha256 } of await Promise.all(all)) assert.equal(sha256, digestOf(content))
})

test('a body of tiny chunks is written before its buffers outgrow it', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const body = new Readable({ read() {} })
  const written = store.writeSegment('up', body, { limit })
  for (let count = 0; count < 5000; count++) body.push(Buffer.from([count]))
  const size = () => readdirSync(`${root}/uploads`).reduce((sum, name) => sum + statSync(`${root}/uploads/${name}`).size, 0)
  t.after(() => body.destroy())
  for (let tries = 0; size() < 4000; tries++) {
    assert.ok(tries < 2000, `${size()} of 5000 bytes were written`)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  body.push(null)
  assert.equal((await written).size, 5000)
})

test('a store whose marker cannot be read is not healthy, and is not begun anew beside a database that names blobs', async (t) => {
  const { store, root, options } = await openTestBlobs(t)
  assert.equal(await store.healthy(), true)
  await openBlobsFs({ ...options, expectExisting: true })
  unlinkSync(`${root}/blobs/.mcr-blobs`)
  assert.equal(await store.healthy(), false)
  await assert.rejects(openBlobsFs({ ...options, expectExisting: true }), /is the volume mounted/)
  await openBlobsFs(options)
  assert.equal(await store.healthy(), true)
  assert.match(readFileSync(`${root}/blobs/.mcr-blobs`, 'utf8'), /registry/)
})

test('directories open to others, links and two file systems are refused with what to do', async (t) => {
  const { root, options } = await openTestBlobs(t)
  chmodSync(`${root}/blobs`, 0o770)
  await assert.rejects(openBlobsFs(options), /chmod go-w .*blobs/)
  chmodSync(`${root}/blobs`, 0o700)
  chmodSync(root, 0o777)
  await assert.rejects(openBlobsFs(options), /chmod o-w/)
  chmodSync(root, 0o700)
  symlinkSync(`${root}/uploads`, `${root}/link`)
  await assert.rejects(openBlobsFs({ ...options, uploadsPath: `${root}/link` }), /no directory of its own/)
  symlinkSync('/tmp', `${root}/blobs/sha256/ab`)
  await assert.rejects(openBlobsFs(options), /blobs\/sha256\/ab is no directory of its own/)
})

test('a link planted as a shard after the start is refused', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const segment = await store.writeSegment('up', source(randomBytesOf(10)), { limit })
  symlinkSync('/tmp', `${root}/blobs/sha256/${segment.sha256.slice(7, 9)}`)
  await assert.rejects(store.commit('up', segment.part, segment.sha256 as Digest), { code: 'BLOB_IO' })
  assert.equal(createHash('sha256').update(randomBytesOf(10)).digest('hex'), segment.sha256.slice(7))
})

test('blobs and uploads on two file systems are refused', {
  skip: twoFileSystems() ? false : 'one file system only',
}, async (t) => {
  const { options } = await openTestBlobs(t)
  const { root } = await openTestBlobs(t, {}, '/dev/shm')
  await assert.rejects(openBlobsFs({ ...options, uploadsPath: `${root}/uploads` }), /two file systems/)
})

const webStream = (chunks: Uint8Array[]) =>
  new ReadableStream({
    pull(controller) {
      const chunk = chunks.shift()
      if (chunk) controller.enqueue(chunk)
      else controller.close()
    },
  })

function twoFileSystems(): boolean {
  try {
    return statSync('/dev/shm').dev !== statSync(process.env.TMPDIR ?? '/tmp').dev
  } catch {
    return false
  }
}

test('a look at a file says whole, missing, size or bytes, and hashes only when it is paced', async (t) => {
  const { store, root } = await openTestBlobs(t)
  const content = randomBytesOf(2_500_000)
  const digest = await storeBlob(store, 'up1', content)
  const path = `${root}/blobs/sha256/${digest.slice(7, 9)}/${digest.slice(7)}.up1`
  let paced = 0
  const pace = async (bytes: number) => {
    paced += bytes
  }
  assert.equal(await store.inspect(digest, 'up1', content.length), 'whole')
  assert.equal(paced, 0)
  assert.equal(await store.inspect(digest, 'up1', content.length, pace), 'whole')
  assert.equal(paced, content.length)
  assert.equal(await store.inspect(digest, 'up2', content.length, pace), 'missing')
  assert.equal(await store.inspect(digest, 'up1', content.length + 1, pace), 'size')
  await assert.rejects(
    store.inspect(digest, 'up1', content.length, () => Promise.reject(new Error('enough'))),
    /enough/,
  )
  chmodSync(path, 0o600)
  writeFileSync(path, randomBytesOf(content.length).fill(0, 0, 1).fill(1, 1, 2))
  assert.equal(await store.inspect(digest, 'up1', content.length), 'whole')
  assert.equal(await store.inspect(digest, 'up1', content.length, pace), 'bytes')

  await store.setAside(digest, 'up1')
  await store.setAside(digest, 'up1')
  await store.setAside(digest, 'never there')
  await store.remove([{ incarnation: 'up1', digest }])
  assert.deepEqual(treeOf(root), [`blobs/quarantine/${digest.slice(7)}.up1`], 'it outlives the file')
  assert.equal(await store.forgetSetAside(Date.now() - 60_000), 0)
  assert.equal(await store.forgetSetAside(Date.now() + 60_000), 1)
  assert.deepEqual(treeOf(root), [])
})
