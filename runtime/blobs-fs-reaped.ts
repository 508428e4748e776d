import { closeSync, constants, openSync } from 'node:fs'
import { readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { ignoring, syncDirectory, syncFile } from './blobs-fs-root.ts'

const { O_CREAT, O_NOFOLLOW, O_WRONLY } = constants
const prefix = '.mcr-reaped.'

/**
 * How far files have been removed for good, as the name of an empty file beside the blobs: `.mcr-reaped.<number>`. The greatest counts, so
 * that several processes may write it at once and none can take it back.
 */
export async function noteReaped(layersPath: string, seq: number): Promise<void> {
  const known = await reapedMarks(layersPath)
  if (known.some((other) => other >= seq)) return
  const fd = openSync(join(layersPath, `${prefix}${seq}`), O_CREAT | O_NOFOLLOW | O_WRONLY, 0o600)
  try {
    await syncFile(fd)
  } finally {
    closeSync(fd)
  }
  await syncDirectory(layersPath)
  for (const older of known) await unlink(join(layersPath, `${prefix}${older}`)).catch(ignoring('ENOENT'))
}

/** The greatest number noted; 0 where none was. */
export async function lastReaped(layersPath: string): Promise<number> {
  return Math.max(0, ...(await reapedMarks(layersPath)))
}

async function reapedMarks(layersPath: string): Promise<number[]> {
  const names = await readdir(layersPath)
  return names.filter((name) => name.startsWith(prefix)).map((name) => Number(name.slice(prefix.length)))
}
