import { createHash } from 'node:crypto'
import { fdatasync, writev } from 'node:fs'
import { Readable } from 'node:stream'
import { blobStoreError } from '../lib/blobs/errors.ts'

export interface ReceiveOptions {
  /** Most bytes the body may have. */
  limit: number
  /** Exact bytes it must have, where that was announced. */
  expected?: number
  /** A body that brings less than this over `rateWindowMs` is given up; time in which the disk keeps it waiting does not count. */
  minBytesPerSecond: number
  rateWindowMs: number
  /** Bytes to gather before they are written; asked anew for each batch. */
  batchBytes(): number
  /** Called every `checkEveryBytes`; what it throws ends the body. */
  checkSpace(): void
}

/** Also the most buffers of one batch, or a body of one-byte chunks would cost a hundred bytes of memory for each of its own. */
const batchChunks = 1000
/** How much may be written before the kernel is made to bring it to the disk: the sync at the end is then short. */
const checkEveryBytes = 64 * 1024 * 1024

/**
 * Writes a request body to a file from its beginning, hashing as it arrives: socket chunks are gathered and written with one call.
 * Memory is two batches, whatever the body's size: while one is written and the next is full, the stream is paused.
 * When it answers, or throws, nothing runs on the descriptor any more.
 * Shape: size in bytes and the hexadecimal SHA-256.  Errors: BLOB_TOO_LARGE, BLOB_LENGTH, BLOB_CUT, BLOB_SLOW; what the disk says, as it is.
 */
export async function receive(fd: number, body: unknown, options: ReceiveOptions): Promise<{ size: number; sha256: string }> {
  const hash = createHash('sha256')
  const stream = readableOf(body)
  const size = stream ? await gather(stream, fd, hash, options) : 0
  if (options.expected !== undefined && size !== options.expected)
    throw blobStoreError('BLOB_LENGTH', `${size} bytes came, ${options.expected} were announced`)
  return { size, sha256: hash.digest('hex') }
}

/**
 * The Node stream beneath a Request's body: reading the web stream over it costs half the throughput. The ponyfill's body keeps it as
 * `readable`, which on a Node stream itself is a flag.
 */
function readableOf(body: unknown): Readable | undefined {
  if (body === null || body === undefined) return undefined
  const beneath = (body as { readable?: unknown }).readable
  if (isReadable(beneath)) return beneath
  if (isReadable(body)) return body
  if (body instanceof Uint8Array) return Readable.from([body])
  if (typeof (body as ReadableStream).getReader === 'function') return Readable.fromWeb(body as never)
  throw blobStoreError('BLOB_IO', 'the body is neither a stream nor bytes')
}

const isReadable = (value: unknown): value is Readable =>
  typeof (value as Readable | null)?.on === 'function' && typeof (value as Readable).read === 'function'

function gather(
  stream: Readable,
  fd: number,
  hash: { update(data: Uint8Array): unknown },
  options: ReceiveOptions,
): Promise<number> {
  const most = Math.min(options.limit, options.expected ?? Infinity)
  let size = 0
  let written = 0
  let nextCheck = checkEveryBytes
  let batch: Uint8Array[] = []
  let batched = 0
  let running = 0
  let writing = false
  let paused = false
  let ended = false
  let failure: Error | undefined

  return new Promise<number>((resolve, reject) => {
    let held = false
    let before = 0
    const least = (options.minBytesPerSecond * options.rateWindowMs) / 1000
    const watch = setInterval(() => {
      if (!held && size - before < least)
        fail(blobStoreError('BLOB_SLOW', `fewer than ${options.minBytesPerSecond} bytes a second`))
      held = paused
      before = size
    }, options.rateWindowMs)

    const cleanUp = () => {
      clearInterval(watch)
      stream.off('data', onData)
      stream.off('end', onEnd)
      stream.off('close', cut)
      stream.off('aborted', cut)
      // 'error' stays: an error nobody listens to would end the process.
    }
    /** The caller closes the descriptor next, whose number may then be another file's: not before all that runs on it is done. */
    const settle = () => {
      if (running > 0) return
      if (failure) reject(failure)
      else resolve(size)
    }
    const fail = (error: Error) => {
      if (failure) return
      failure = error
      cleanUp()
      // What is left of the body is the server's to drain or to cut.
      stream.pause()
      batch = []
      settle()
    }
    const onData = (chunk: Uint8Array) => {
      size += chunk.length
      if (size > most)
        return fail(
          size > options.limit
            ? blobStoreError('BLOB_TOO_LARGE', `more than ${options.limit} bytes`)
            : blobStoreError('BLOB_LENGTH', `more than the ${options.expected} bytes that were announced`),
        )
      hash.update(chunk)
      batch.push(chunk)
      batched += chunk.length
      if (batched < options.batchBytes() && batch.length < batchChunks) return
      if (!writing) return write()
      paused = true
      held = true
      stream.pause()
    }
    const write = () => {
      const chunks = batch
      batch = []
      batched = 0
      writing = true
      running++
      writeAll(fd, chunks, written, (error, bytes) => {
        running--
        writing = false
        written += bytes
        if (failure) return settle()
        if (error) return fail(error)
        if (written >= nextCheck) startWriteback()
        if (failure) return
        if (batched > 0 && (ended || paused)) write()
        else if (ended) return settle()
        if (paused) {
          paused = false
          stream.resume()
        }
      })
    }
    const startWriteback = () => {
      nextCheck = written + checkEveryBytes
      try {
        options.checkSpace()
      } catch (error) {
        return fail(error as Error)
      }
      running++
      fdatasync(fd, (error) => {
        running--
        if (failure) return settle()
        // What this sync could not save, no later one will report.
        if (error) return fail(error)
        if (ended && !writing && batched === 0) settle()
      })
    }
    const onEnd = () => {
      // HTTP/2 ends a stream that was reset as if it were whole.
      if ((stream as { aborted?: boolean }).aborted) return cut()
      ended = true
      cleanUp()
      if (writing) return
      if (batched > 0) write()
      else settle()
    }
    const cut = () => {
      if (!ended) fail(blobStoreError('BLOB_CUT', `the client left after ${size} bytes`))
    }
    stream.on('error', cut)
    stream.on('aborted', cut)
    stream.on('close', cut)
    stream.on('end', onEnd)
    if (stream.readableEnded) onEnd()
    else if (stream.destroyed || stream.errored) cut()
    else stream.on('data', onData)
  })
}

/** Writes buffers at a position, all of them, in as many calls as the kernel wants. */
function writeAll(fd: number, chunks: Uint8Array[], position: number, done: (error: Error | null, bytes: number) => void): void {
  let total = 0
  for (const chunk of chunks) total += chunk.length
  let written = 0
  let rest = chunks
  const step = () =>
    writev(fd, rest, position + written, (error, bytes) => {
      if (error) return done(error, written)
      written += bytes
      if (written === total) return done(null, written)
      rest = skip(rest, bytes)
      step()
    })
  step()
}

function skip(chunks: Uint8Array[], bytes: number): Uint8Array[] {
  let left = bytes
  let index = 0
  while (index < chunks.length && left >= (chunks[index] as Uint8Array).length) left -= (chunks[index++] as Uint8Array).length
  const [first, ...others] = chunks.slice(index)
  return first ? [first.subarray(left), ...others] : []
}
