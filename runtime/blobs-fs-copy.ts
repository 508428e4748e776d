import { createHash } from 'node:crypto'
import { constants, write as writeFd } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { promisify } from 'node:util'
import { blobStoreError } from '../lib/blobs/errors.ts'
import type { Algorithm, Digest } from '../lib/oci/digest.ts'

const writeFile = promisify(writeFd)
const readBytes = 1024 * 1024

/**
 * Copies files one after the other to a descriptor, hashing what was read. Two buffers: while one is hashed and written the other fills.
 * Shape: bytes written, their SHA-256 and their digest in `algorithm`.  Errors: BLOB_IO for a source that has another size than was said;
 * what the disk says, as it is.
 */
export async function copyHashed(
  fd: number,
  sources: readonly { path: string; size: number }[],
  algorithm: Algorithm,
): Promise<{ size: number; sha256: Digest; digest: Digest }> {
  const sha256 = createHash('sha256')
  const other = algorithm === 'sha256' ? undefined : createHash(algorithm)
  let size = 0
  for (const source of sources) {
    const before = size
    await eachChunk(source.path, async (chunk) => {
      const at = size
      size += chunk.length
      const writing = writeAll(fd, chunk, at)
      sha256.update(chunk)
      other?.update(chunk)
      await writing
    })
    if (size - before !== source.size)
      throw blobStoreError('BLOB_IO', `a segment of ${size - before} bytes, ${source.size} were expected`)
  }
  const own = `sha256:${sha256.digest('hex')}` as Digest
  return { size, sha256: own, digest: other ? (`${algorithm}:${other.digest('hex')}` as Digest) : own }
}

/** The digest of a stored file. Errors: what the disk says, as it is. */
export async function hashFile(path: string, algorithm: Algorithm): Promise<Digest> {
  const hash = createHash(algorithm)
  await eachChunk(path, async (chunk) => void hash.update(chunk))
  return `${algorithm}:${hash.digest('hex')}` as Digest
}

/** Reads a file piece by piece, the next one while `use` works on the last. Both buffers are reused, so `use` must be done with its chunk. */
export async function eachChunk(path: string, use: (chunk: Buffer) => Promise<void>): Promise<void> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    await readAhead(file, use)
  } finally {
    await file.close()
  }
}

async function readAhead(file: FileHandle, use: (chunk: Buffer) => Promise<void>): Promise<void> {
  const buffers = [Buffer.allocUnsafe(readBytes), Buffer.allocUnsafe(readBytes)] as const
  let which: 0 | 1 = 0
  let chunk = await file.read(buffers[which], 0, readBytes, null)
  while (chunk.bytesRead > 0) {
    const piece = buffers[which].subarray(0, chunk.bytesRead)
    which = which === 0 ? 1 : 0
    // Both are waited for, whichever fails: the caller closes what they work on.
    const [next, used] = await Promise.allSettled([file.read(buffers[which], 0, readBytes, null), use(piece)])
    if (used.status === 'rejected') throw used.reason
    if (next.status === 'rejected') throw next.reason
    chunk = next.value
  }
}

async function writeAll(fd: number, bytes: Buffer, position: number): Promise<void> {
  let written = 0
  while (written < bytes.length)
    written += (await writeFile(fd, bytes, written, bytes.length - written, position + written)).bytesWritten
}
