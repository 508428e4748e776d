import { randomBytes } from 'node:crypto'
import { closeSync, constants, fchmodSync, open as openFd } from 'node:fs'
import { lstat, opendir, readFile, rename, unlink } from 'node:fs/promises'
import { constants as system } from 'node:os'
import { dirname, join as joinPath } from 'node:path'
import { promisify } from 'node:util'
import type { BlobStore, Dead, Removed, StoredFile } from '../lib/blobs/blob-store.ts'
import { blobStoreError } from '../lib/blobs/errors.ts'
import { algorithmOf, type Digest, encodedOf } from '../lib/oci/digest.ts'
import { copyHashed, hashFile } from './blobs-fs-copy.ts'
import { forgetSetAside, inspectFile, setAside } from './blobs-fs-inspect.ts'
import { createReader } from './blobs-fs-read.ts'
import { lastReaped, noteReaped } from './blobs-fs-reaped.ts'
import {
  algorithms,
  ensureShard,
  ignoring,
  markerName,
  prepareRoot,
  type StoreRoot,
  syncDirectory,
  syncFile,
  syncTogether,
} from './blobs-fs-root.ts'
import { receive } from './blobs-fs-write.ts'

export interface BlobsFsOptions extends StoreRoot {
  /** Directory of finished blobs: `<algorithm>/<two hex>/<hex>.<incarnation>`. Made where it is missing. */
  layersPath: string
  /** Directory of segments: `<incarnation>.<random>`. On the same file system. */
  uploadsPath: string
  /** Slowest body that is still waited for, over a window. */
  minBytesPerSecond: number
  rateWindowMs: number
  /** Throws where that many bytes more find no room. Errors: BLOB_FULL. */
  admit?: (bytes: number) => void
  /** Most files that may be open at once; who comes beyond is refused. Errors: BLOB_BUSY. */
  maxOpenFiles?: number
  /** The random part of a segment's name. */
  newId?: () => string
  /** `read`: nothing is made or checked that only writing needs; the store is there already. */
  access?: 'write' | 'read'
}

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants
const { errno: systemErrors } = system
const openFile = promisify(openFd)
const listed = 1000
/**
 * Files that are removed at once, and from which size one at a time: blocks are freed while a thread of the pool waits, and requests need
 * the others.
 */
const removers = 8
const largeBytes = 64 * 1024 * 1024

/**
 * Blobs as files. Order of durability: write, sync the file, rename, sync the directory; only then may a row name it.
 * Errors: a plain Error that says what to change, for a network file system, two file systems, links, directories open to others.
 */
export async function openBlobsFs(options: BlobsFsOptions): Promise<BlobStore> {
  const { layersPath, uploadsPath } = options
  const newId = options.newId ?? (() => randomBytes(16).toString('hex'))
  const shards = options.access === 'read' ? new Set<string>() : prepareRoot(options)
  const reader = createReader((streams) => writers + streams >= (options.maxOpenFiles ?? Infinity))
  const syncUploads = syncTogether(uploadsPath)
  let writers = 0

  const blobPath = (digest: Digest, inc: string) => {
    const hex = encodedOf(digest)
    return joinPath(layersPath, algorithmOf(digest), hex.slice(0, 2), `${hex}.${plain(inc)}`)
  }
  const partPath = (inc: string, part: string) => {
    if (!part.startsWith(`${inc}.`)) throw blobStoreError('BLOB_IO', `segment ${part} is not of upload ${inc}`)
    return joinPath(uploadsPath, plain(part))
  }
  const admit = options.admit ?? (() => undefined)
  /** Memory is about two batches a writer: large ones for few, small ones for many. */
  const batchBytes = () => (writers > 32 ? 64 : writers > 8 ? 256 : 512) * 1024

  /** A new file under uploads/, filled by `fill`, durable with its name; nothing stays of one that fails. */
  async function newSegment<T>(inc: string, fill: (fd: number) => Promise<T>): Promise<{ part: string; value: T }> {
    const part = `${plain(inc)}.${newId()}`
    const path = joinPath(uploadsPath, part)
    if (writers + reader.streams() >= (options.maxOpenFiles ?? Infinity)) throw blobStoreError('BLOB_BUSY', 'too many open files')
    let fd: number | undefined
    writers++
    try {
      fd = await openFile(path, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0o600)
      const value = await fill(fd)
      // A sync that fails has lost what it was to save: the file goes, the sync is never tried again.
      await syncFile(fd)
      fchmodSync(fd, 0o444)
      const done = fd
      fd = undefined
      closeSync(done)
      await syncUploads()
      return { part, value }
    } catch (error) {
      if (fd !== undefined) closeSync(fd)
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
        await unlink(path).catch(() => {
          // What cannot be removed now no row names: the sweep takes it. The first failure is the one to tell.
        })
      throw failure(error)
    } finally {
      writers--
    }
  }

  async function useShard(path: string): Promise<void> {
    if (shards.has(path)) return
    await ensureShard(path, options.readers)
    shards.add(path)
  }

  /** Renames, or finds it done: the source gone and the target there. */
  async function move(source: string, target: string): Promise<void> {
    const shard = dirname(target)
    await useShard(shard)
    try {
      await rename(source, target)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      if ((await sizeOf(target)) !== undefined) return
      // Somebody tidied up empty directories.
      shards.delete(shard)
      await useShard(shard)
      await rename(source, target)
    }
  }

  /** Every file of dead incarnations is handed to `act`, then counted. */
  async function removeOrWeigh(dead: readonly Dead[], act: (path: string) => Promise<void>): Promise<Removed> {
    const removed: Removed = { files: 0, bytes: 0, shared: 0, failed: [] }
    const paths = new Map<string, string[]>()
    for (const { incarnation, digest } of dead) {
      const of = paths.get(incarnation) ?? []
      paths.set(plain(incarnation), digest ? [...of, blobPath(digest, incarnation)] : of)
    }
    for await (const name of namesIn(uploadsPath)) paths.get(name.slice(0, name.indexOf('.')))?.push(joinPath(uploadsPath, name))
    const queue = paths.entries()
    let large: Promise<void> = Promise.resolve()
    const takeNext = async () => {
      for (const [incarnation, files] of queue)
        try {
          for (const path of files) {
            const info = await lstat(path).catch(ignoring('ENOENT'))
            if (!info) continue
            if (info.size < largeBytes) await act(path)
            else {
              const own = () => act(path)
              // Whether the one before could be or not: that is in `failed`.
              large = large.then(own, own)
              await large
            }
            removed.files++
            removed[info.nlink > 1 ? 'shared' : 'bytes'] += info.size
          }
        } catch (error) {
          removed.failed.push({ incarnation, reason: (error as Error).message })
        }
    }
    await Promise.all(Array.from({ length: removers }, takeNext))
    return removed
  }

  return {
    async writeSegment(inc, body, { limit, expected }) {
      if (expected !== undefined && expected > limit)
        throw blobStoreError('BLOB_TOO_LARGE', `${expected} bytes, and the limit is ${limit}`)
      admit(expected ?? 0)
      const { minBytesPerSecond, rateWindowMs } = options
      const rules = { limit, expected, minBytesPerSecond, rateWindowMs, batchBytes, checkSpace: () => admit(0) }
      const { part, value } = await newSegment(inc, (fd) => receive(fd, body, rules))
      return { part, size: value.size, sha256: `sha256:${value.sha256}` as Digest }
    },
    async dropSegment(inc, part) {
      await unlink(partPath(inc, part)).catch(ignoring('ENOENT')).catch(failing)
    },
    async segmentsIntact(inc, segments) {
      for (const { part, size } of segments) if ((await sizeOf(partPath(inc, part))) !== size) return false
      return true
    },
    async join(inc, segments, algorithm) {
      admit(segments.reduce((sum, segment) => sum + segment.size, 0))
      const sources = segments.map(({ part, size }) => ({ path: partPath(inc, part), size }))
      const { part, value } = await newSegment(inc, (fd) => copyHashed(fd, sources, algorithm))
      return { segment: { part, size: value.size, sha256: value.sha256 }, digest: value.digest }
    },
    async hash(inc, part, algorithm) {
      return await hashFile(partPath(inc, part), algorithm).catch(failing)
    },
    async commit(inc, part, digest) {
      const source = partPath(inc, part)
      const target = blobPath(digest, inc)
      try {
        await move(source, target)
        // Also when it was found done: whoever did it may have died before the sync.
        await syncDirectory(dirname(target))
      } catch (error) {
        throw failure(error)
      }
    },
    async inspect(digest, inc, size, pace) {
      return await inspectFile(blobPath(digest, inc), digest, size, pace)
    },
    async setAside(digest, inc) {
      await setAside(layersPath, blobPath(digest, inc)).catch(failing)
    },
    async forgetSetAside(before) {
      return await forgetSetAside(layersPath, before).catch(failing)
    },
    async stat(digest, inc) {
      return await sizeOf(blobPath(digest, inc))
    },
    async open(digest, inc, size, range) {
      return await reader.open(blobPath(digest, inc), size, range)
    },
    async openPieces(digest, inc, size, pieces) {
      return await reader.openPieces(blobPath(digest, inc), size, pieces)
    },
    remove: (dead) => removeOrWeigh(dead, removeFile),
    wouldRemove: (dead) => removeOrWeigh(dead, async () => undefined),
    async weigh(digest, inc) {
      const info = await lstat(blobPath(digest, inc)).catch(ignoring('ENOENT')).catch(failing)
      return info?.isFile() ? { size: info.size, otherNames: info.nlink - 1 } : undefined
    },
    noteReaped: async (seq) => await noteReaped(layersPath, seq).catch(failing),
    lastReaped: async () => await lastReaped(layersPath).catch(failing),
    async healthy() {
      return (await readFile(joinPath(layersPath, markerName), 'utf8').catch(() => '')) !== ''
    },
    async *list() {
      const found: StoredFile[] = []
      for await (const part of namesIn(uploadsPath)) {
        found.push({ incarnation: part.slice(0, part.indexOf('.')), part })
        if (found.length >= listed) yield found.splice(0)
      }
      for (const algorithm of algorithms)
        for (let shard = 0; shard < 256; shard++)
          for await (const name of namesIn(joinPath(layersPath, algorithm, shard.toString(16).padStart(2, '0')))) {
            const dot = name.indexOf('.')
            found.push({ incarnation: name.slice(dot + 1), digest: `${algorithm}:${name.slice(0, dot)}` as Digest })
            if (found.length >= listed) yield found.splice(0)
          }
      if (found.length > 0) yield found
    },
  }
}

/** Names of files with a dot in them, our own shape; nothing where the directory is missing. */
async function* namesIn(path: string): AsyncGenerator<string> {
  const directory = await opendir(path, { bufferSize: 256 }).catch(ignoring('ENOENT'))
  if (!directory) return
  for await (const { name } of directory) if (name.indexOf('.') > 0) yield name
}

/** Incarnations and parts come from rows and URLs: they are names, never paths. */
function plain(name: string): string {
  if (name === '' || name.includes('/') || name.includes('\0') || name.startsWith('.'))
    throw blobStoreError('BLOB_IO', 'no name of a stored file')
  return name
}

async function removeFile(path: string): Promise<void> {
  await unlink(path).catch(ignoring('ENOENT'))
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    const info = await lstat(path)
    return info.isFile() ? info.size : undefined
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw failure(error)
  }
}

function failing(error: unknown): never {
  throw failure(error)
}

/** What the disk said, as the port's failure. */
function failure(error: unknown): Error {
  const { code, errno, message } = error as NodeJS.ErrnoException
  if (code?.startsWith('BLOB_')) return error as Error
  // libuv has no name for EDQUOT: its code reads "Unknown system error".
  if (code === 'ENOSPC' || errno === -systemErrors.EDQUOT) return blobStoreError('BLOB_FULL', message, error)
  if (code === 'EMFILE' || code === 'ENFILE') return blobStoreError('BLOB_BUSY', 'too many open files', error)
  return blobStoreError('BLOB_IO', message, error)
}
