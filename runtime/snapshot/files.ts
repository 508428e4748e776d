import { createHash } from 'node:crypto'
import { closeSync, constants, createReadStream, openSync } from 'node:fs'
import { copyFile, link, lstat, mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ignoring, syncDirectory, syncFile } from '../blobs-fs-root.ts'

/** The size of a plain file; undefined where there is none. */
export async function sizeOf(path: string): Promise<number | undefined> {
  const info = await lstat(path).catch(ignoring('ENOENT'))
  return info?.isFile() ? info.size : undefined
}

export async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/**
 * A second name of an immutable file where both are on one file system, else a copy; under its name only when it is whole and durable
 * (the name itself is durable once its directory is synced). Shape: which it was.
 */
export async function linkOrCopy(source: string, target: string): Promise<'linked' | 'copied'> {
  try {
    await link(source, target)
    return 'linked'
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') {
      await rm(target)
      return await linkOrCopy(source, target)
    }
    if (code !== 'EXDEV' && code !== 'EPERM' && code !== 'EMLINK' && code !== 'EOPNOTSUPP') throw error
  }
  await copyDurably(source, target)
  return 'copied'
}

/** A copy of its own, sharing blocks where the file system can. */
export async function copyDurably(source: string, target: string): Promise<void> {
  const partial = `${target}.partial`
  await rm(partial, { force: true })
  await copyFile(source, partial, constants.COPYFILE_FICLONE)
  await syncPath(partial)
  await rename(partial, target)
}

export async function syncPath(path: string): Promise<void> {
  const fd = openSync(path, constants.O_RDONLY)
  try {
    await syncFile(fd)
  } finally {
    closeSync(fd)
  }
}

/** Writes a new file and makes its bytes durable. */
export async function writeDurably(path: string, bytes: Uint8Array | string): Promise<void> {
  const file = await open(path, 'w', 0o600)
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Makes directories as they are needed, and the names in them durable at the end. */
export function createShards(): { prepare(path: string): Promise<void>; sync(): Promise<void> } {
  const made = new Set<string>()
  return {
    async prepare(path) {
      const folder = dirname(path)
      if (made.has(folder)) return
      await mkdir(folder, { recursive: true, mode: 0o700 })
      made.add(folder)
    },
    async sync() {
      const all = new Set([...made, ...[...made].flatMap((folder) => [dirname(folder), dirname(dirname(folder))])])
      for (const folder of all) await syncDirectory(folder)
    },
  }
}
