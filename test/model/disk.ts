import { type Disk, entry, put } from './state.ts'

/** A new file under uploads/ with bytes in it: neither they nor its name are durable. */
export const create = (disk: Disk, body: number): Disk => ({
  ...disk,
  uploads: put(disk.uploads, body, entry(true, false)),
  bodies: put(disk.bodies, body, 'dirty' as const),
})

/** fsync(2) on the file: the bytes, not the name. */
export const syncFile = (disk: Disk, body: number): Disk =>
  disk.bodies[body] === 'dirty' ? { ...disk, bodies: put(disk.bodies, body, 'synced' as const) } : disk

export const syncUploads = (disk: Disk): Disk => ({ ...disk, uploads: disk.uploads.map(({ now }) => entry(now, now)) })
export const syncBlobs = (disk: Disk): Disk => ({ ...disk, finals: disk.finals.map(({ now }) => entry(now, now)) })

/** rename(2) from uploads/ to a final name. Each of the two names is durable when its directory is: worse than what file systems do. */
export const rename = (disk: Disk, body: number, name: number): Disk => ({
  ...disk,
  uploads: put(disk.uploads, body, entry(false, disk.uploads[body]?.durable ?? false)),
  finals: put(disk.finals, name, entry(body, disk.finals[name]?.durable ?? 0)),
})

export const unlinkUpload = (disk: Disk, body: number): Disk =>
  disk.uploads[body]?.now ? { ...disk, uploads: put(disk.uploads, body, entry(false, disk.uploads[body].durable)) } : disk

export const unlinkFinal = (disk: Disk, name: number): Disk =>
  disk.finals[name]?.now ? { ...disk, finals: put(disk.finals, name, entry(0, disk.finals[name].durable)) } : disk

/** Whether a final name leads to all of the bytes. */
export const isWhole = (disk: Disk, name: number): boolean => {
  const body = disk.finals[name]?.now ?? 0
  return body !== 0 && disk.bodies[body] !== 'torn'
}
