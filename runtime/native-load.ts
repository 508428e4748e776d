// Stands in for the driver's loader in the single executable (esbuild.config.mjs): the addon is inside, and the system only loads files.
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { homedir, constants as osConstants } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { getAssetKeys, getRawAsset } from 'node:sea'

/**
 * Loads the addon that the executable carries from a private file named by its hash, written when it is not there yet.
 * Errors: a plain Error that names MCR_NATIVE_DIR, where no directory is private or files there cannot be loaded.
 */
export function load(): unknown {
  // The build names it by its hash.
  const asset = getAssetKeys().find((name) => name.endsWith('.node')) as string
  const bytes = Buffer.from(getRawAsset(asset) as ArrayBuffer)
  const file = extractAddon(basename(asset), bytes, addonDirectory(process.env))
  const loaded = { exports: {} }
  try {
    process.dlopen(loaded as NodeJS.Module, file, osConstants.dlopen.RTLD_NOW)
  } catch (error) {
    throw new Error(
      `${file} cannot be loaded (${(error as Error).message}): if ${dirname(file)} is mounted noexec, set MCR_NATIVE_DIR to a private directory elsewhere`,
    )
  }
  return loaded.exports
}

export const currentTarget = () => `${process.platform}-${process.arch}`

/** MCR_NATIVE_DIR, the unit's CacheDirectory=, else the user's cache. Errors: a plain Error where the user has no home. */
export function addonDirectory(env: NodeJS.ProcessEnv): string {
  if (env.MCR_NATIVE_DIR) return resolve(env.MCR_NATIVE_DIR)
  if (env.CACHE_DIRECTORY) return join(env.CACHE_DIRECTORY.split(':')[0] as string, 'native')
  if (env.XDG_CACHE_HOME) return join(env.XDG_CACHE_HOME, 'mcr', 'native')
  try {
    return join(homedir(), '.cache', 'mcr', 'native')
  } catch {
    throw new Error(
      `the user ${self()} has no home directory for the database driver: set MCR_NATIVE_DIR to a directory of its own`,
    )
  }
}

/**
 * The file of that name and those bytes in `directory`, checked or written anew. Errors: a plain Error where others could have put it there,
 * or could put another in its place.
 */
export function extractAddon(name: string, bytes: Buffer, directory: string): string {
  const file = join(directory, name)
  makeDirectory(directory)
  // What somebody we trust has put there, an image or a package, is as good as what we write.
  if (holds(file, bytes)) return file
  const { uid, mode } = lstatSync(directory)
  if (uid !== self()) throw unfit(directory, 'belongs to another user', directory)
  if ((mode & 0o077) !== 0) throw unfit(directory, 'is open to others', directory)
  const temporary = join(directory, `.${name}.${process.pid}.${Date.now()}`)
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants
  const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o500)
  try {
    // Not synced: each start compares it, and writes anew what a power cut took.
    writeFileSync(fd, bytes)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  } finally {
    closeSync(fd)
  }
  // Those who start at the same time write the same bytes under the same name.
  renameSync(temporary, file)
  return file
}

function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw unfit(directory, `cannot be made (${(error as Error).message})`, directory)
  }
  if (!lstatSync(directory).isDirectory()) throw unfit(directory, 'is a link', directory)
  // Who can write to a parent can put another directory in its place; a sticky one keeps what is ours.
  for (let path = realpathSync(directory); ; path = dirname(path)) {
    const { uid, mode } = statSync(path)
    if (!isTrusted(uid)) throw unfit(path, 'belongs to another user', directory)
    if ((mode & 0o022) !== 0 && (mode & 0o1000) === 0) throw unfit(path, 'can be written by others', directory)
    if (path === dirname(path)) return
  }
}

const unfit = (path: string, why: string, directory: string) =>
  new Error(
    `${path} ${why}, so the database driver is not loaded from ${directory}: set MCR_NATIVE_DIR to a directory that only you can write to`,
  )

/** Whether a file is there with exactly those bytes that nobody else can change. */
function holds(file: string, bytes: Buffer): boolean {
  let fd: number
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW)
  } catch (error) {
    if (['ENOENT', 'ELOOP', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) return false
    throw error
  }
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile() || !isTrusted(stat.uid) || stat.size !== bytes.length || (stat.mode & 0o022) !== 0) return false
    return bytes.equals(readFileSync(fd))
  } finally {
    closeSync(fd)
  }
}

const self = () => process.getuid?.() ?? -1
const isTrusted = (uid: number) => uid === 0 || uid === self()
