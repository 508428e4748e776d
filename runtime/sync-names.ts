import { closeSync, constants, fsyncSync, openSync } from 'node:fs'

/** Makes the names in a directory durable before anything else happens here: for what a start makes. */
export function syncNames(directory: string): void {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
