import { createReadStream } from 'node:fs'
import { readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { ignoring } from '../blobs-fs-root.ts'
import { blobName, isSnapshotId, names, parseLine } from './format.ts'

/** The snapshots of a directory, oldest first. */
export async function listSnapshots(root: string): Promise<string[]> {
  const found = await readdir(join(root, 'snapshots')).catch(ignoring('ENOENT'))
  return (found ?? []).filter(isSnapshotId).sort()
}

/** Takes all but the newest `keep` snapshots away, then the files that none of those names. */
export async function pruneSnapshots(root: string, keep: number): Promise<void> {
  const all = await listSnapshots(root)
  const old = all.slice(0, -keep)
  for (const id of old) {
    // Half of one would count as one.
    const going = join(root, 'snapshots', `${id}.partial`)
    await rename(join(root, 'snapshots', id), going)
    await rm(going, { recursive: true })
  }
  const kept = all.slice(-keep)
  const lists = await Promise.all(kept.map((id) => openList(join(root, 'snapshots', id, names.list))))
  try {
    for (const algorithm of ['sha256', 'sha512'])
      for (let at = 0; at < 256; at++) {
        const shard = join(algorithm, at.toString(16).padStart(2, '0'))
        const wanted = new Set<string>()
        for (const list of lists) for (const name of await list.until(shard)) wanted.add(name)
        for (const name of (await readdir(join(root, 'blobs', shard)).catch(ignoring('ENOENT'))) ?? [])
          if (!wanted.has(join(shard, name))) await rm(join(root, 'blobs', shard, name))
      }
  } finally {
    for (const list of lists) list.close()
  }
}

/** A list read shard by shard, in which order it is: a list of millions of files is never in memory whole. */
async function openList(path: string): Promise<{ until(shard: string): Promise<string[]>; close(): void }> {
  const stream = createReadStream(path)
  const lines = createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]()
  const read = async () => {
    const { done, value } = await lines.next()
    return done ? undefined : parseLine(value)
  }
  let next = await read()
  return {
    async until(shard) {
      const found: string[] = []
      while (next && blobName(next.digest, next.inc).startsWith(`${shard}/`)) {
        if (!next.damaged) found.push(blobName(next.digest, next.inc))
        next = await read()
      }
      return found
    },
    close: () => stream.destroy(),
  }
}
