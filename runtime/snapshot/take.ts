import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Base } from '../../lib/context.ts'
import { change } from '../../lib/journal/change.ts'
import { journalKey } from '../../lib/journal/checkpoint.ts'
import type { MetadataStore, Sql } from '../../lib/metadata/sql.ts'
import { readDatabaseCopy } from '../database-file.ts'
import { copyDatabaseApart } from './copy-database.ts'
import { sha256Of, sizeOf, syncPath, writeDurably } from './files.ts'
import { blobName, type Description, formatLine, type ListedFile, names, type Signature, sign } from './format.ts'
import { pinFiles } from './pin.ts'
import type { SnapshotTarget } from './target.ts'

export interface SnapshotNeeds extends Pick<Base, 'now' | 'newId'> {
  metadata: MetadataStore
  databasePath: string
  layersPath: string
  secret: Uint8Array<ArrayBuffer>
  instance: string
  version: string
}

export interface SnapshotProgress {
  files: number
  totalFiles: number
  bytes: number
  totalBytes: number
}

export interface Taken {
  description: Description
  signature: Signature
  /** of the files that the target did not have: a second name, or bytes that were written */
  linked: number
  copied: number
  copiedBytes: number
}

const page = 500
/** Files on their way at once. */
const together = 4

/**
 * A whole state of the registry, taken beside everything that goes on: first files are pinned, so that none goes; then the database is
 * copied as one state; then the files that the copy names, which never change, so there are always at least those. What the target has
 * already is not written again. Nothing counts before its description is signed and in place.
 * Shape: the description. Errors: a plain Error; the target then holds no more snapshots than before.
 */
export async function takeSnapshot(
  ctx: SnapshotNeeds,
  id: string,
  target: SnapshotTarget,
  tell: (progress: SnapshotProgress) => void,
): Promise<Taken> {
  const pin = await pinFiles(ctx.metadata, id, ctx.now())
  try {
    const database = join(target.work, names.database)
    await copyDatabaseApart(ctx.databasePath, database)
    await syncPath(database)
    const copy = readDatabaseCopy(database)
    try {
      const files = await copyFiles(ctx, copy.read, target, tell)
      await pin.check()
      const description = await describe(ctx, id, copy.read, database, files)
      const bytes = Buffer.from(`${JSON.stringify(description, null, 2)}\n`)
      const { kid, key } = await journalKey(ctx, ctx.secret)
      const [row] = await ctx.metadata.read.all<{ jwk: string }>(`SELECT public_jwk AS jwk FROM journal_keys WHERE kid = ?`, [
        kid,
      ])
      const signature = await sign(bytes, kid, key, JSON.parse(row?.jwk ?? '{}') as JsonWebKey)
      await writeDurably(join(target.work, names.description), bytes)
      await writeDurably(join(target.work, names.signature), `${JSON.stringify(signature, null, 2)}\n`)
      await target.finish()
      await change(ctx, { principal: { subject: 'system:snapshot' } }, async (_sql, append) => {
        const { count, bytes: size, damaged } = description.files
        append({ type: 'snapshot_taken', detail: { snapshot: id, files: count, bytes: size, damaged } })
      })
      return { description, signature, linked: files.linked, copied: files.copied, copiedBytes: files.copiedBytes }
    } finally {
      copy.close()
    }
  } catch (error) {
    await target.abandon()
    throw error
  } finally {
    await pin.remove()
  }
}

interface Copied {
  count: number
  bytes: number
  damaged: number
  sha256: string
  linked: number
  copied: number
  copiedBytes: number
}

/** Brings every blob of the copied database to the target, and writes the list of them. */
async function copyFiles(
  ctx: SnapshotNeeds,
  sql: Sql,
  target: SnapshotTarget,
  tell: (progress: SnapshotProgress) => void,
): Promise<Copied> {
  const [all] = await sql.all<{ files: number; bytes: number }>(
    `SELECT count(*) AS files, coalesce(sum(size), 0) AS bytes FROM blobs`,
  )
  const total = { totalFiles: all?.files ?? 0, totalBytes: all?.bytes ?? 0 }
  const hash = createHash('sha256')
  const done: Copied = { count: 0, bytes: 0, damaged: 0, sha256: '', linked: 0, copied: 0, copiedBytes: 0 }
  const one = async ({
    digest,
    inc,
    size,
    state,
  }: {
    digest: never
    inc: string
    size: number
    state: number
  }): Promise<ListedFile> => {
    const name = blobName(digest, inc)
    const source = join(ctx.layersPath, name)
    // Damaged is what is marked, and what is found to be missing or of another size now. A copy from before that counts as whole until it is read.
    const broken = state !== 0 || (await sizeOf(source)) !== size
    const damaged = broken && !(await target.has(name, size))
    if (!damaged) {
      const how = broken ? 'there' : await target.bring(source, name, size)
      if (how === 'linked') done.linked++
      if (how === 'copied') done.copiedBytes += size
      if (how === 'copied') done.copied++
      done.count++
      done.bytes += size
    } else done.damaged++
    tell({ files: done.count + done.damaged, bytes: done.bytes, ...total })
    return { digest, inc, size, damaged }
  }
  async function* lines(): AsyncGenerator<string> {
    for (let after = ''; ; ) {
      const rows = await sql.all<{ digest: never; inc: string; size: number; state: number }>(
        `SELECT digest, inc, size, state FROM blobs WHERE digest > ? ORDER BY digest LIMIT ${page}`,
        [after],
      )
      const last = rows.at(-1)
      if (!last) return
      for (let at = 0; at < rows.length; at += together) {
        const listed = await Promise.all(rows.slice(at, at + together).map(one))
        for (const file of listed) {
          const line = formatLine(file)
          hash.update(line)
          yield line
        }
      }
      after = last.digest
    }
  }
  const list = join(target.work, names.list)
  await pipeline(lines(), createWriteStream(list, { mode: 0o600 }))
  await syncPath(list)
  return { ...done, sha256: hash.digest('hex') }
}

async function describe(ctx: SnapshotNeeds, id: string, sql: Sql, database: string, files: Copied): Promise<Description> {
  const [head] = await sql.all<{ seq: number; hash: Uint8Array }>(`SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1`)
  const { count, bytes, damaged, sha256 } = files
  return {
    format: 1,
    id,
    instance: ctx.instance,
    version: ctx.version,
    made_at: ctx.now(),
    journal: { seq: head?.seq ?? 0, hash: head ? Buffer.from(head.hash).toString('hex') : '' },
    database: { size: (await stat(database)).size, sha256: await sha256Of(database) },
    files: { count, bytes, damaged, sha256 },
  }
}
