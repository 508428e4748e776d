import { randomBytes } from 'node:crypto'
import { closeSync, constants, existsSync, fsyncSync, linkSync, openSync, unlinkSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { inflateRawSync } from 'node:zlib'

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants

/**
 * Puts `emptyDatabase` (deflated, in base64) where there is no database yet, so that a first start need not run every migration. Whole and
 * durable before it has its name; of processes that start together one gives it that. Where it cannot be, SQLite makes the file as ever.
 */
export function layEmptyDatabase(path: string, emptyDatabase: string | undefined): void {
  // A log that was left behind would be read into the new file; SQLite knows to throw it away.
  if (emptyDatabase === undefined || existsSync(path) || existsSync(`${path}-wal`)) return
  const own = `${path}.${randomBytes(6).toString('hex')}`
  try {
    const fd = openSync(own, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0o600)
    try {
      writeFileSync(fd, inflateRawSync(Buffer.from(emptyDatabase, 'base64')))
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    linkSync(own, path)
    const directory = openSync(dirname(path), O_RDONLY | O_DIRECTORY)
    fsyncSync(directory)
    closeSync(directory)
  } catch {
    // A directory that cannot be written is told of by who opens the database; another process may have been first.
  } finally {
    if (existsSync(own)) unlinkSync(own)
  }
}
