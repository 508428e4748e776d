import { closeSync, constants, fsyncSync, lstatSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'

/** Makes the names in a directory durable before anything else happens here: for what a start makes. */
export function syncNames(directory: string): void {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Makes a directory, and those above it, where they are missing; closed to others, and with names that are durable. */
export function makeDirectory(path: string): void {
  // Above the store a link is nobody's attack.
  if (lstatSync(path, { throwIfNoEntry: false })) return
  makeDirectory(dirname(path))
  mkdirSync(path, { recursive: true, mode: 0o700 })
  try {
    syncNames(dirname(path))
  } catch (error) {
    // Above the store may be a directory that we may write and not read: its names are its owner's to make durable.
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') throw error
  }
}
