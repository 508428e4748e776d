import { randomBytes } from 'node:crypto'
import { closeSync, constants, existsSync, fsyncSync, linkSync, openSync, unlinkSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { syncNames } from './sync-names.ts'

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants

/**
 * Puts `emptyDatabase` (deflated, in base64) where there is no database yet, so that a first start need not run every migration. Whole and
 * durable before it has its name; of processes that start together one gives it that. Where it cannot be, SQLite makes the file as ever.
 * Errors: those of the file system, where the name cannot be made durable.
 */
export function layEmptyDatabase(path: string, emptyDatabase: string): void {
  // A log that was left behind would be read into the new file; SQLite knows to throw it away.
  if (!existsSync(path) && !existsSync(`${path}-wal`))
    makeWhole(path, process.getBuiltinModule('node:zlib').inflateRawSync(Buffer.from(emptyDatabase, 'base64')))
  // Also where another process has just given it its name, and may die before this: nobody is answered over a name that may be lost.
  syncNames(dirname(path))
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
