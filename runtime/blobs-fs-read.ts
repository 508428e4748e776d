import {
  close as closeFd,
  closeSync,
  constants,
  fstat,
  fstatSync,
  open as openFd,
  openSync,
  read as readFd,
  readSync,
} from 'node:fs'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { blobStoreError } from '../lib/blobs/errors.ts'

const openFile = promisify(openFd)
const statFile = promisify(fstat)
const readFile = promisify(readFd)
const closeFile = promisify(closeFd)

const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
/** Read at once into memory: a stream would cost more. */
const smallBytes = 64 * 1024
/** A call this slow waited for a disk, not for the page cache. */
const slowMs = 5
const slowForMs = 10_000
const manyStreams = 8
const largeChunk = 1024 * 1024
const smallChunk = 256 * 1024
/** Large buffers that wait to be used again. */
const spareMost = 16

type Part = Uint8Array | { at: number; length: number }

export interface BlobReader {
  /** Files that are open for bodies under way. */
  streams(): number
  /**
   * A response body of a stored file, or of a part of it. Shape: bytes for what is small, else a Node stream that holds one descriptor
   * and closes it once, at its end, at an error, or when it is destroyed; undefined where the file is missing, a link, or has another
   * size than its row says.  Errors: BLOB_BUSY without free descriptors, BLOB_IO.
   */
  open(path: string, size: number, range?: { first: number; last: number }): Promise<BodyInit | undefined>
  /** The same for several parts in order, with literal bytes between them. */
  openPieces(
    path: string,
    size: number,
    pieces: readonly (Uint8Array | { first: number; last: number })[],
  ): Promise<BodyInit | undefined>
}

/**
 * Opening and small reads are made on the spot while the disk answers from the page cache: the thread pool costs ten times the call
 * itself. After one slow call they go through the pool for a while, so that a sleeping disk does not hold up everybody.
 */
export function createReader(tooMany: (streams: number) => boolean = () => false): BlobReader {
  let slowUntil = 0
  let streams = 0
  const spare: Buffer[] = []

  /** Large reads for few downloads, small ones for many, so that memory stays bounded. */
  const chunkBytes = () => (streams > manyStreams ? smallChunk : largeChunk)

  /** A buffer to read into. Making and collecting a megabyte for each read cost more than reading and sending it. */
  function take(bytes: number): Buffer {
    return (bytes === largeChunk ? spare.pop() : undefined) ?? Buffer.allocUnsafeSlow(bytes)
  }

  function release(chunk: Uint8Array): void {
    if (chunk.byteLength === largeChunk && chunk.buffer.byteLength === largeChunk && spare.length < spareMost)
      spare.push(Buffer.from(chunk.buffer as ArrayBuffer))
  }

  function quick<T>(call: () => T): T {
    const before = performance.now()
    try {
      return call()
    } finally {
      const after = performance.now()
      if (after - before > slowMs) slowUntil = after + slowForMs
    }
  }

  async function openSized(path: string, size: number, direct: boolean): Promise<number | undefined> {
    let fd: number | undefined
    if (tooMany(streams)) throw blobStoreError('BLOB_BUSY', 'too many open files')
    try {
      fd = direct ? quick(() => openSync(path, flags)) : await openFile(path, flags)
      const info = direct ? fstatSync(fd) : await statFile(fd)
      if (info.isFile() && info.size === size) return fd
      closeSync(fd)
      return undefined
    } catch (error) {
      if (fd !== undefined) closeSync(fd)
      const { code, message } = error as NodeJS.ErrnoException
      if (code === 'ENOENT' || code === 'ELOOP' || code === 'ENOTDIR' || code === 'ENXIO') return undefined
      if (code === 'EMFILE' || code === 'ENFILE') throw blobStoreError('BLOB_BUSY', 'too many open files', error)
      throw blobStoreError('BLOB_IO', message, error)
    }
  }

  async function readWhole(fd: number, at: number, length: number, direct: boolean): Promise<Uint8Array> {
    const bytes = Buffer.allocUnsafe(length)
    let got = 0
    while (got < length) {
      const count = direct
        ? quick(() => readSync(fd, bytes, got, length - got, at + got))
        : (await readFile(fd, bytes, got, length - got, at + got)).bytesRead
      if (count === 0) throw blobStoreError('BLOB_IO', 'the file ended before its size')
      got += count
    }
    return bytes
  }

  function stream(fd: number, parts: readonly Part[], file?: string): BodyInit {
    streams++
    // Reading ahead keeps one fast client busy; for many slow ones it doubles what each of them holds.
    const ahead = streams > manyStreams ? 0 : chunkBytes()
    const body = fileStream(fd, parts, ahead, chunkBytes, take, () => {
      streams--
    })
    return Object.assign(body, { release, file }) as unknown as BodyInit
  }

  return {
    streams: () => streams,
    async open(path, size, range) {
      const direct = performance.now() >= slowUntil
      const fd = await openSized(path, size, direct)
      if (fd === undefined) return undefined
      const at = range?.first ?? 0
      const length = range ? range.last - range.first + 1 : size
      if (length > smallBytes) return stream(fd, [{ at, length }], path)
      try {
        return (await readWhole(fd, at, length, direct)) as unknown as BodyInit
      } finally {
        if (direct) closeSync(fd)
        else await closeFile(fd)
      }
    },
    async openPieces(path, size, pieces) {
      const fd = await openSized(path, size, performance.now() >= slowUntil)
      if (fd === undefined) return undefined
      return stream(
        fd,
        pieces.map((piece) => (piece instanceof Uint8Array ? piece : { at: piece.first, length: piece.last - piece.first + 1 })),
      )
    },
  }
}

/**
 * A body that takes its chunks back: `release` may be called with one when its bytes have left, and never before. `file` is where they come
 * from, if they are one stretch of one file.
 */
export type ReleasingBody = Readable & { release?: (chunk: Uint8Array) => void; file?: string }

/** A stream over parts of an open file. A file that ends early breaks the stream: a short body must not look like a whole one. */
function fileStream(
  fd: number,
  parts: readonly Part[],
  highWaterMark: number,
  chunkBytes: () => number,
  take: (bytes: number) => Buffer,
  onClose: () => void,
): Readable {
  let index = 0
  let done = 0
  let reading = false
  let onIdle: (() => void) | undefined
  return new Readable({
    highWaterMark,
    read() {
      let part = parts[index]
      while (part && part.length === 0) part = parts[++index]
      if (!part) {
        this.push(null)
        return
      }
      if (part instanceof Uint8Array) {
        index++
        this.push(part)
        return
      }
      const { at, length } = part
      const want = Math.min(chunkBytes(), length - done)
      reading = true
      readFd(fd, take(want), 0, want, at + done, (error, got, bytes) => {
        reading = false
        onIdle?.()
        if (this.destroyed) return
        if (error || got === 0) {
          this.destroy(blobStoreError('BLOB_IO', error?.message ?? 'the file ended before its size', error))
          return
        }
        done += got
        if (done === length) {
          index++
          done = 0
        }
        this.push(got < want ? bytes.subarray(0, got) : bytes)
      })
    },
    destroy(error, callback) {
      // Not under a read that still runs: the descriptor's number might be another file's by then.
      const end = () => {
        onClose()
        // Through the pool: the last descriptor of a removed file frees its blocks.
        closeFd(fd, (failure) => callback(error ?? failure))
      }
      if (reading) onIdle = end
      else end()
    },
  })
}
