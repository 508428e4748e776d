import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, mkdtemp, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { pack } from 'tar-stream'
import { ignoring, syncDirectory } from '../blobs-fs-root.ts'
import { createShards, linkOrCopy, sizeOf, syncPath } from './files.ts'
import { isSnapshotId, names } from './format.ts'
import { pruneSnapshots } from './prune.ts'

/** Where a snapshot goes. */
export interface SnapshotTarget {
  /** Directory for the database's copy, the list, the description: the snapshot's own. */
  readonly work: string
  /** Whether it has a file of that name and size from before. */
  has(name: string, size: number): Promise<boolean>
  /** Brings a registry's file there. Shape: how; `there`: it had it already. */
  bring(source: string, name: string, size: number): Promise<'there' | 'linked' | 'copied'>
  /** Makes everything durable, then visible at once. */
  finish(): Promise<void>
  /** Takes away what would be half a snapshot. Files stay: the next one finds them. */
  abandon(): Promise<void>
}

/** A run that has not been heard of for this long is over. */
const staleMs = 10 * 60_000
const beatMs = 30_000
/** While it stands among the snapshots, one run takes away what no list names. One whose run died is over after `prunesMs`. */
const pruningName = 'pruning'
const prunesMs = 4 * beatMs
const waitMs = 100

/** Into a directory, beside the snapshots that are there; of these `keep` stay, counting this one. */
export async function directoryTarget(root: string, id: string, keep: number): Promise<SnapshotTarget> {
  const snapshots = join(root, 'snapshots')
  const work = join(snapshots, `${id}.partial`)
  await mkdir(work, { recursive: true, mode: 0o700 })
  const shards = createShards()
  const beat = startBeat(work)
  // Seen from here on by who begins to prune; who has begun does not know what this one is about to find there.
  while (await isPruned(snapshots)) await sleep(waitMs)
  return {
    work,
    has: async (name, size) => (await sizeOf(join(root, 'blobs', name))) === size,
    async bring(source, name, size) {
      const path = join(root, 'blobs', name)
      await shards.prepare(path)
      if ((await sizeOf(path)) === size) return 'there'
      return await linkOrCopy(source, path)
    },
    async finish() {
      await shards.sync()
      await syncDirectory(work)
      await rename(work, join(snapshots, id))
      clearInterval(beat)
      await syncDirectory(snapshots)
      await syncDirectory(root)
      await pruneAlone(root, snapshots, keep)
    },
    async abandon() {
      clearInterval(beat)
      await rm(work, { recursive: true, force: true })
    },
  }
}

/** Says of a directory, until it is cleared, that somebody is at work there. */
function startBeat(path: string): NodeJS.Timeout {
  const beat = () =>
    utimes(path, new Date(), new Date()).catch(() => {
      // That it cannot be said fails nothing: a directory that is gone fails the next step that needs it.
    })
  return setInterval(beat, beatMs).unref()
}

/** Prunes, unless another run does, or is under way: what that has found there must not go before its list is written. */
async function pruneAlone(root: string, snapshots: string, keep: number): Promise<void> {
  const pruning = join(snapshots, pruningName)
  if (await isPruned(snapshots)) return
  // Made before others are looked for, and they look for it after they can be seen: one of the two sees the other.
  const made = await mkdir(pruning, { mode: 0o700 }).then(() => true, ignoring('EEXIST'))
  if (!made) return
  const beat = startBeat(pruning)
  try {
    if ((await othersUnderWay(snapshots)) === 0) await pruneSnapshots(root, keep)
  } finally {
    clearInterval(beat)
    await rm(pruning, { recursive: true, force: true })
  }
}

/** Whether somebody prunes; what one that died left is cleared away. */
async function isPruned(snapshots: string): Promise<boolean> {
  const pruning = join(snapshots, pruningName)
  const info = await stat(pruning).catch(ignoring('ENOENT'))
  if (!info) return false
  if (Date.now() - info.mtimeMs < prunesMs) return true
  await rm(pruning, { recursive: true, force: true })
  return false
}

/** Snapshots being taken by others; those that died are cleared away. */
async function othersUnderWay(snapshots: string): Promise<number> {
  let alive = 0
  for (const name of await readdir(snapshots)) {
    if (!name.endsWith('.partial') || !isSnapshotId(name.slice(0, -'.partial'.length))) continue
    const info = await stat(join(snapshots, name)).catch(ignoring('ENOENT'))
    if (info && Date.now() - info.mtimeMs < staleMs) alive++
    else await rm(join(snapshots, name), { recursive: true, force: true })
  }
  return alive
}

/** Into a new tar file, under its name only when it is whole. */
export async function tarTarget(file: string, id: string): Promise<SnapshotTarget> {
  const path = resolve(file)
  const partial = `${path}.partial`
  const work = await mkdtemp(join(dirname(path), `.${basename(path)}-`))
  const tar = pack()
  const written = pipeline(tar, createWriteStream(partial, { mode: 0o600 }))
  written.catch(() => {
    // Awaited by `finish`, where its failure counts; one before that also fails the entry under way.
  })
  // One file after the other: a tar has one stream.
  let turn: Promise<unknown> = Promise.resolve()
  const add = (source: string, name: string, size: number) => {
    const own = async () => {
      const entry = tar.entry({ name, size, mode: 0o444, mtime: new Date(0) })
      await pipeline(createReadStream(source, { highWaterMark: 1 << 20 }), entry)
    }
    // A failure is for who asked for that one; the next meets the stream as it is then.
    const mine = turn.then(own, own)
    turn = mine
    return mine
  }
  return {
    work,
    has: async () => false,
    async bring(source, name, size) {
      await add(source, join('blobs', name), size)
      return 'copied'
    },
    async finish() {
      for (const name of Object.values(names)) {
        const source = join(work, name)
        await add(source, join('snapshots', id, name), (await stat(source)).size)
      }
      tar.finalize()
      await written
      await syncPath(partial)
      await rename(partial, path)
      await syncDirectory(dirname(path))
      await rm(work, { recursive: true })
    },
    async abandon() {
      tar.destroy()
      // It fails by what the line above does, or has failed already, which is why there is an end: that it is over is what counts.
      await Promise.allSettled([written])
      await rm(partial, { force: true })
      await rm(work, { recursive: true, force: true })
    },
  }
}
