import {
  chmodSync,
  closeSync,
  constants,
  fsync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { chmod, mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { makeDirectory, syncNames } from './sync-names.ts'

export const syncFile = promisify(fsync)

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = constants
/** Says that this is the store and not the empty directory a volume is mounted on. */
export const markerName = '.mcr-blobs'
export const algorithms = ['sha256', 'sha512'] as const

/** File systems that others can change, or whose locks and syncs end at this machine (statfs(2), linux/magic.h). */
const networkFileSystems: Readonly<Record<number, string>> = {
  26985: 'NFS',
  20859: 'SMB',
  4283649346: 'CIFS',
  4266872130: 'SMB2',
  16914839: '9p',
  1702057286: 'FUSE',
  1397113167: 'AFS',
  1799439955: 'AFS',
  1937076805: 'Coda',
  12805120: 'Ceph',
  198183888: 'Lustre',
  18225520: 'GFS2',
  1952539503: 'OCFS2',
  2020557398: 'VirtualBox shared folder',
}

export interface StoreRoot {
  layersPath: string
  uploadsPath: string
  /** A store that lost its marker is refused instead of begun anew: for a database that already names blobs. */
  expectExisting?: boolean
  /** `group`: its group may read finished blobs, so that a proxy in it can send them. */
  readers?: 'group'
}

/**
 * Checks and, the first time, makes the directories of a store and its marker; a start waits for it, so nothing here goes through the pool.
 * Shape: the shards (`<layersPath>/<algorithm>/<two hex>`) that are there and durable.
 * Errors: a plain Error that says what to change, for a network file system, two file systems, links, directories open to others.
 */
export function prepareRoot({ layersPath, uploadsPath, expectExisting, readers }: StoreRoot): Set<string> {
  for (const path of [layersPath, uploadsPath]) {
    makeDirectory(path)
    checkDirectory(path)
  }
  const [layers, uploads] = [statSync(layersPath), statSync(uploadsPath)]
  if (layers.dev !== uploads.dev)
    throw new Error(
      `storage.layers_path ${layersPath} and storage.uploads_path ${uploadsPath} are on two file systems, and a finished upload could not be renamed: put them on one`,
    )
  const marker = join(layersPath, markerName)
  const marked = isThere(marker)
  if (!marked && expectExisting)
    throw new Error(
      `${layersPath} holds no ${markerName}, but the database names blobs: is the volume mounted? If it is and the directory was restored without hidden files, create ${marker} with any text in it`,
    )
  const shards = new Set<string>()
  for (const algorithm of algorithms) {
    const parent = join(layersPath, algorithm)
    if (!isThere(parent)) mkdirSync(parent, { recursive: true, mode: 0o700 })
    refuseLink(parent)
    for (const entry of readdirSync(parent, { withFileTypes: true })) {
      if (entry.isSymbolicLink()) refuseLink(join(parent, entry.name))
      if (entry.isDirectory()) shards.add(join(parent, entry.name))
    }
    // Whoever made them may have died before this: listed first, synced second.
    syncNames(parent)
  }
  if (readers === 'group')
    for (const path of [layersPath, ...algorithms.map((name) => join(layersPath, name)), ...shards]) chmodSync(path, 0o750)
  if (!marked) writeMarker(marker)
  syncNames(layersPath)
  return shards
}

/**
 * The same checks for a process that only reads: it makes nothing, and needs no right to.
 * Shape: what is still missing, or undefined.  Errors: a plain Error for links, directories open to others, network file systems.
 */
export async function missingRoot({ layersPath }: StoreRoot): Promise<string | undefined> {
  if (!isThere(join(layersPath, markerName))) return `${layersPath} holds no ${markerName} yet`
  checkDirectory(layersPath)
  return undefined
}

/** Makes a shard and its name durable. Errors: a plain Error where a link stands in its place. */
export async function ensureShard(path: string, readers?: 'group'): Promise<void> {
  for (const level of [dirname(path), path]) {
    await mkdir(level, { mode: 0o700 }).catch(ignoring('EEXIST'))
    refuseLink(level)
    // Beyond the umask, which is 077.
    if (readers === 'group') await chmod(level, 0o750)
    await syncDirectory(dirname(level))
  }
}

/** Makes the names in a directory durable. The directory has just been used, so opening it costs no disk access. */
export async function syncDirectory(path: string): Promise<void> {
  const fd = openSync(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
  try {
    await syncFile(fd)
  } finally {
    closeSync(fd)
  }
}

/**
 * One sync for all who ask while another runs: what is waiting when a sync starts is covered by it.
 * Each caller's own change must have happened before it asks.
 */
export function syncTogether(path: string): () => Promise<void> {
  let running: Promise<void> | undefined
  let next: Promise<void> | undefined
  const start = (): Promise<void> => {
    next = undefined
    const own: Promise<void> = syncDirectory(path).finally(() => {
      if (running === own) running = undefined
    })
    running = own
    return own
  }
  return () => {
    if (!running) return start()
    next ??= running.then(start, start)
    return next
  }
}

/** An error handler that lets one code pass as undefined. */
export function ignoring(code: string): (error: NodeJS.ErrnoException) => undefined {
  return (error) => {
    if (error.code !== code) throw error
    return undefined
  }
}

/** Errors: a plain Error for what is no directory of its own, is open to others, or lies on a network file system. */
export function checkDirectory(path: string): void {
  const info = lstatSync(path)
  if (!info.isDirectory()) throw new Error(`${path} is no directory of its own (a link, a file): name the directory itself`)
  if ((info.mode & 0o022) !== 0) throw new Error(`${path} can be written by others: chmod go-w ${path}`)
  const parent = statSync(dirname(path))
  // With the sticky bit (/tmp) others may add names there but not take this one away.
  if ((parent.mode & 0o1002) === 0o002)
    throw new Error(`${dirname(path)} can be written by everybody: chmod o-w ${dirname(path)}`)
  if (process.platform !== 'linux') return
  const name = networkFileSystems[statfsSync(path).type]
  if (name)
    throw new Error(`${path} is on a network file system (${name}), whose locks and syncs cannot be trusted: use a local disk`)
}

function refuseLink(path: string): void {
  const info = lstatSync(path, { throwIfNoEntry: false })
  if (info && !info.isDirectory())
    throw new Error(`${path} is no directory of its own (a link, a file): remove it or put the directory there`)
}

const isThere = (path: string) => lstatSync(path, { throwIfNoEntry: false }) !== undefined

function writeMarker(path: string): void {
  const text = 'This directory holds the blobs of a registry. Without this file it is taken for an unmounted volume.\n'
  try {
    writeFileSync(path, text, { flag: 'wx', mode: 0o600, flush: true })
  } catch (error) {
    // Of processes that start together one makes it.
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
