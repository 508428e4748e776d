import { randomBytes } from 'node:crypto'
import { closeSync, constants, existsSync, fsyncSync, linkSync, openSync, unlinkSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { syncNames } from './sync-names.ts'

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants

/** A file of a few pages' content: what lies between its zeros, by position, in base64. To undo that needs no library that a start has to load. */
export interface EmptyDatabase {
  bytes: number
  pieces: readonly (readonly [at: number, base64: string])[]
}

/**
 * Puts `emptyDatabase` where there is no database yet, so that a first start need not run every migration. Whole and
 * durable before it has its name; of processes that start together one gives it that. Where it cannot be, SQLite makes the file as ever.
 * Errors: those of the file system, where the name cannot be made durable.
 */
export function layEmptyDatabase(path: string, emptyDatabase: EmptyDatabase): void {
  // A log that was left behind would be read into the new file; SQLite knows to throw it away.
  if (!existsSync(path) && !existsSync(`${path}-wal`)) makeWhole(path, bytesOf(emptyDatabase))
  // Also where another process has just given it its name, and may die before this: nobody is answered over a name that may be lost.
  syncNames(dirname(path))
}

function bytesOf({ bytes, pieces }: EmptyDatabase): Buffer {
  const file = Buffer.alloc(bytes)
  for (const [at, base64] of pieces) file.write(base64, at, 'base64')
  return file
}

function makeWhole(path: string, bytes: Buffer): void {
  const own = `${path}.${randomBytes(6).toString('hex')}`
  try {
    const fd = openSync(own, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0o600)
    try {
      writeFileSync(fd, bytes)
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    linkSync(own, path)
  } catch {
    // Another process was first, or the file system has no links; what else is wrong here SQLite meets as well, and says so.
  } finally {
    if (existsSync(own)) unlinkSync(own)
  }
}
