import { randomFillSync } from 'node:crypto'
import { closeSync, fsyncSync, ftruncateSync, openSync, rmSync, statfsSync, statSync } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { blobStoreError } from '../lib/blobs/errors.ts'
import type { Job } from '../lib/jobs/job.ts'
import type { LogEvent } from '../lib/observe/log.ts'
import type { Config } from './config.ts'
import type { Gauges } from './metrics.ts'

/** What is left of the disk, and its two reserves: the floor that nothing new may use, and the ballast that only deleting gets. */
export interface Space {
  /** Refuses what would make the registry larger by that much while there is no room. Errors: BLOB_FULL. */
  admit(bytes?: number): void
  /** The database found no room: it gets the ballast's. Shape: whether trying again is worth it. */
  full(): boolean
  /** The ballast is missing, and there is room for it above the floor. */
  lacksBallast(): boolean
  makeBallast(): Promise<void>
  measure(): Room & { ballast: number; refusing: boolean }
}

/** Free bytes and those of them that stay free, of the file system where the difference is least. */
interface Room {
  free: number
  floor: number
}

export interface SpaceOptions {
  /** Where the ballast lies: beside the database. */
  directory: string
  /** Where blobs are written; perhaps another file system. */
  blobsDirectory: string
  /** Bytes that stay free; absent: 1 GiB or 2 % of the file system, whichever is more. */
  floorBytes?: number
  /** Size of the ballast; 0: none. */
  ballastBytes: number
  log: (event: LogEvent) => void
}

const gibibyte = 2 ** 30
const piece = 1024 * 1024

/** As the configuration says. */
export function spaceOptions({ database, storage }: Pick<Config, 'database' | 'storage'>): Omit<SpaceOptions, 'log'> {
  const local = database.url === undefined
  return {
    directory: local ? dirname(database.path) : storage.root,
    blobsDirectory: storage.uploadsPath,
    floorBytes: storage.freeFloor,
    ballastBytes: local ? storage.ballast : 0,
  }
}

/**
 * Keeps the disk from filling to the last byte, and a way out where something else filled it. On a full disk SQLite can commit nothing, not
 * even deletes: so a file is kept beside the database and emptied when that happens. An empty ballast tells every process to take nothing
 * new; when there is room it is made again, and pushes go on without a restart.
 */
export function createSpace({ directory, blobsDirectory, floorBytes, ballastBytes, log }: SpaceOptions): Space {
  const path = join(directory, 'ballast')
  let refusing = false

  const ballast = () => statSync(path, { throwIfNoEntry: false })?.size
  const roomIn = (where: string): Room => {
    const { bavail, blocks, bsize } = statfsSync(where)
    return { free: bavail * bsize, floor: floorBytes ?? Math.max(gibibyte, Math.floor(blocks * bsize * 0.02)) }
  }
  const room = (): Room => {
    const [own, blobs] = [roomIn(directory), roomIn(blobsDirectory)]
    return own.free - own.floor < blobs.free - blobs.floor ? own : blobs
  }
  const say = (now: boolean, { free, floor }: Room) => {
    if (now === refusing) return
    refusing = now
    const hint = 'pushes are refused with 507: delete and collect (mcr gc run --now), or make room'
    if (now) log({ level: 'error', event: 'storage_full', directory, free, floor, hint })
    else log({ level: 'info', event: 'storage_room', directory, free, floor })
  }

  return {
    admit(bytes = 0) {
      const now = room()
      const dropped = ballastBytes > 0 && ballast() === 0
      // One body that is larger than what is left is no full disk.
      say(dropped || now.free < now.floor, now)
      if (dropped) throw blobStoreError('BLOB_FULL', 'the database had no space, and its reserve is not there again yet')
      if (now.free - bytes < now.floor) throw blobStoreError('BLOB_FULL', `fewer than ${now.floor} bytes would stay free`)
    },
    full() {
      rmSync(`${path}.new`, { force: true })
      const bytes = ballast()
      if (bytes === undefined) return false
      if (bytes > 0) {
        try {
          empty(path)
        } catch {
          // Not this process's to empty (it only reads), or the disk fails: the answer is that it is full.
          return false
        }
        log({ level: 'error', event: 'ballast_dropped', bytes })
        say(true, room())
      }
      return true
    },
    lacksBallast() {
      if (ballastBytes === 0 || ballast() === ballastBytes) return false
      const { free, floor } = roomIn(directory)
      return free - ballastBytes >= floor
    },
    async makeBallast() {
      await fill(`${path}.new`, ballastBytes)
      await rename(`${path}.new`, path)
      log({ level: 'info', event: 'ballast_made', bytes: ballastBytes })
      say(false, room())
    },
    measure() {
      const now = room()
      const bytes = ballast()
      return { ...now, ballast: bytes ?? 0, refusing: now.free < now.floor || (ballastBytes > 0 && bytes === 0) }
    },
  }
}

/** Frees a file's blocks, and waits for the file system to give them out again: some do so only with their next journal commit. */
function empty(path: string): void {
  const fd = openSync(path, 'r+')
  try {
    ftruncateSync(fd)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** The numbers of the disk, for the metrics. */
export const spaceGauges = (space: Space): Gauges => ({
  storage_free_bytes: { help: 'Free bytes where the registry keeps its data.', joined: 'min', value: () => space.measure().free },
  storage_floor_bytes: {
    help: 'Free bytes below which nothing new is taken.',
    joined: 'max',
    value: () => space.measure().floor,
  },
  storage_ballast_bytes: {
    help: 'Size of the reserve that a full disk frees.',
    joined: 'max',
    value: () => space.measure().ballast,
  },
  storage_full: { help: '1 while nothing new is taken.', joined: 'max', value: () => Number(space.measure().refusing) },
})

/** Random bytes: where the file system compresses, zeros would keep nothing. */
async function fill(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'w', 0o600)
  try {
    const buffer = Buffer.allocUnsafe(Math.min(piece, bytes))
    for (let at = 0; at < bytes; at += piece) await file.write(randomFillSync(buffer), 0, Math.min(piece, bytes - at), at)
    await file.sync()
  } catch (error) {
    await rm(path, { force: true })
    throw error
  } finally {
    await file.close()
  }
}

/** Makes the ballast where it is missing and there is room; one process at a time does. */
export function keepBallast(space: Space): Job {
  return {
    name: 'keep-ballast',
    everyMs: 2_000,
    due: async () => space.lacksBallast(),
    async run() {
      if (!space.lacksBallast()) return { made: 0 }
      await space.makeBallast()
      return { made: 1 }
    },
  }
}
