import { randomBytes } from 'node:crypto'
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  readFileSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { syncNames } from './sync-names.ts'

/**
 * The 32 bytes that seal the token signing keys in the database: `$MCR_AUTH_KEY` in base64, else the file, made at the first start.
 * Errors: a plain Error for a key of another length, or a file that others may read.
 */
export function readAuthKey(file: string, env: Readonly<Record<string, string | undefined>>): Uint8Array<ArrayBuffer> {
  if (env.MCR_AUTH_KEY) return check(Buffer.from(env.MCR_AUTH_KEY, 'base64'), '$MCR_AUTH_KEY')
  if (!existsSync(file)) makeKey(file)
  if ((lstatSync(file).mode & 0o077) !== 0) throw new Error(`${file} can be read by others: chmod 0600 ${file}`)
  return check(Buffer.from(readFileSync(file, 'utf8').trim(), 'base64'), file)
}

/**
 * Under another name first: a process that starts at the same moment must never read a file that is not written yet. Durable with its name
 * before anything is sealed with it, also where another process has just made it and may die before that.
 */
function makeKey(file: string): void {
  const own = `${file}.${randomBytes(6).toString('hex')}`
  const fd = openSync(own, constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW | constants.O_WRONLY, 0o600)
  try {
    writeSync(fd, `${randomBytes(32).toString('base64')}\n`)
    fsyncSync(fd)
    linkSync(own, file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    closeSync(fd)
    unlinkSync(own)
  }
  syncNames(dirname(file))
}

function check(key: Buffer, from: string): Uint8Array<ArrayBuffer> {
  if (key.length !== 32) throw new Error(`${from}: not 32 bytes in base64`)
  return new Uint8Array(key)
}
