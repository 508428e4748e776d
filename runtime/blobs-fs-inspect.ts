import { createHash } from 'node:crypto'
import { link, lstat, mkdir, opendir, stat, unlink } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { FileState } from '../lib/blobs/blob-store.ts'
import { blobStoreError } from '../lib/blobs/errors.ts'
import { algorithmOf, type Digest } from '../lib/oci/digest.ts'
import { eachChunk } from './blobs-fs-copy.ts'
import { ignoring } from './blobs-fs-root.ts'

/** Where damaged files are set aside, in the directory of finished blobs. */
export const quarantineName = 'quarantine'

/** What a file is, compared with its row; with `pace` also its bytes. What `pace` throws, as it is. Errors: BLOB_BUSY. */
export async function inspectFile(
  path: string,
  digest: Digest,
  size: number,
  pace?: (bytes: number) => Promise<void>,
): Promise<FileState> {
  try {
    const info = await lstat(path)
    if (!info.isFile()) return 'missing'
    if (info.size !== size) return 'size'
    if (!pace) return 'whole'
    const algorithm = algorithmOf(digest)
    const hash = createHash(algorithm)
    await eachChunk(path, async (chunk) => {
      hash.update(chunk)
      await pace(chunk.length)
    })
    return `${algorithm}:${hash.digest('hex')}` === digest ? 'whole' : 'bytes'
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP') return 'missing'
    if (code === 'EIO' || code === 'EUCLEAN' || code === 'EACCES') return 'unreadable'
    if (code === 'EMFILE' || code === 'ENFILE') throw blobStoreError('BLOB_BUSY', 'too many open files', error)
    if (code !== undefined && /^E[A-Z0-9]+$/.test(code)) throw blobStoreError('BLOB_IO', message, error)
    throw error
  }
}

/** A second name of the file, which outlives the healing that takes the first one away. It costs no bytes until then. */
export async function setAside(layersPath: string, path: string): Promise<void> {
  const folder = join(layersPath, quarantineName)
  await mkdir(folder, { mode: 0o700 }).catch(ignoring('EEXIST'))
  await link(path, join(folder, basename(path)))
    .catch(ignoring('EEXIST'))
    .catch(ignoring('ENOENT'))
}

/** By the time of their last change of name: making and losing a name both move it. */
export async function forgetSetAside(layersPath: string, before: number): Promise<number> {
  const folder = join(layersPath, quarantineName)
  const directory = await opendir(folder).catch(ignoring('ENOENT'))
  if (!directory) return 0
  let gone = 0
  for await (const { name } of directory) {
    const path = join(folder, name)
    if ((await stat(path)).ctimeMs >= before) continue
    await unlink(path).catch(ignoring('ENOENT'))
    gone++
  }
  return gone
}
