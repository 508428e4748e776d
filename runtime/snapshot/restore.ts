import { copyFile, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Base } from '../../lib/context.ts'
import { change } from '../../lib/journal/change.ts'
import { renewJournalKey } from '../../lib/journal/checkpoint.ts'
import type { MetadataStore } from '../../lib/metadata/sql.ts'
import { openBlobsFs } from '../blobs-fs.ts'
import { ignoring, syncDirectory } from '../blobs-fs-root.ts'
import { copyDatabase, openDatabaseFile } from '../database-file.ts'
import { migrate } from '../migrate.ts'
import { copyDurably, createShards, linkOrCopy, syncPath } from './files.ts'
import { blobName } from './format.ts'
import type { SnapshotSource } from './source.ts'

export interface RestoreNeeds extends Pick<Base, 'now' | 'newId'> {
  migrations: Readonly<Record<string, string>>
  /** Reads or makes `auth.key` at a path. */
  readKey(path: string): Uint8Array<ArrayBuffer>
}

/** What is written where until it is whole. */
export const stagingName = '.restoring'

/** Errors: a plain Error where the root has anything in it: a restore never mixes with what is there. */
export async function refuseFull(root: string): Promise<void> {
  const found = await readdir(root).catch(ignoring('ENOENT'))
  if (found && found.length > 0)
    throw new Error(`${root} is not empty (it has ${found.slice(0, 3).join(', ')}): restore into a directory of its own`)
}

/**
 * Puts a snapshot into an empty root: blobs first, the database last, so that a restore that was cut is no registry. What belonged to the
 * running registry ends: uploads, leases, logins and browser sessions, and every token that was made from a credential.
 * `authKey` is the `auth.key` of the registry that the snapshot is of; without it what that key sealed is renewed.
 * `move`: the snapshot is a working copy, whose files may be given a second name.
 */
export async function restoreSnapshot(
  ctx: RestoreNeeds,
  source: SnapshotSource,
  root: string,
  options: { authKey?: string; move: boolean },
  tell: (files: number, bytes: number) => void,
): Promise<void> {
  const staging = join(root, stagingName)
  await mkdir(staging, { recursive: true, mode: 0o700 })
  const blobs = join(staging, 'blobs')
  const shards = createShards()
  const damaged: string[] = []
  let files = 0
  let bytes = 0
  for await (const file of source.files()) {
    if (file.damaged) {
      damaged.push(file.inc)
      continue
    }
    const target = join(blobs, blobName(file.digest, file.inc))
    await shards.prepare(target)
    if (options.move) await linkOrCopy(source.path(file), target)
    else await copyDurably(source.path(file), target)
    files++
    bytes += file.size
    tell(files, bytes)
  }
  await shards.sync()
  const keyPath = join(staging, 'auth.key')
  if (options.authKey !== undefined) await copyFile(options.authKey, keyPath)
  const secret = ctx.readKey(keyPath)
  await syncPath(keyPath)
  await restoreDatabase(ctx, source, join(staging, 'mcr.db'), { secret, sameKey: options.authKey !== undefined, damaged, blobs })
  for (const name of ['blobs', 'uploads', 'auth.key', 'mcr.db']) await rename(join(staging, name), join(root, name))
  await rm(staging, { recursive: true })
  await syncDirectory(root)
}

async function restoreDatabase(
  ctx: RestoreNeeds,
  source: SnapshotSource,
  path: string,
  options: { secret: Uint8Array<ArrayBuffer>; sameKey: boolean; damaged: readonly string[]; blobs: string },
): Promise<void> {
  const prepared = `${path}.prepared`
  await copyDurably(source.databasePath, prepared)
  const metadata = await openDatabaseFile(prepared, {
    onFatal: (error) => {
      throw error
    },
  })
  try {
    await migrate(metadata, ctx.migrations)
    await endWhatRan({ ...ctx, metadata }, source, options)
    if (!options.sameKey) await renewJournalKey({ ...ctx, metadata }, options.secret)
    const [row] = await metadata.read.all<{ seq: number }>(`SELECT reap_seq AS seq FROM instance`)
    // The marks that say: this is the store, and so far has it been reaped.
    const store = await openBlobsFs({
      layersPath: options.blobs,
      uploadsPath: join(options.blobs, '../uploads'),
      minBytesPerSecond: 0,
      rateWindowMs: 60_000,
    })
    await store.noteReaped(row?.seq ?? 0)
  } finally {
    await metadata.close()
  }
  // One file without a log beside it, which renaming would leave behind.
  copyDatabase(prepared, path)
  await syncPath(path)
}

/** The transaction that makes a copy of a running registry one that has just been put back. */
async function endWhatRan(
  ctx: Pick<Base, 'now' | 'newId'> & { metadata: MetadataStore },
  source: SnapshotSource,
  { sameKey, damaged }: { sameKey: boolean; damaged: readonly string[] },
): Promise<void> {
  await change(ctx, { principal: { subject: 'system:restore' } }, async (sql, append) => {
    for (const table of ['gc_pins', 'leases', 'uploads', 'trash', 'browser_logins', 'signing_keys'])
      await sql.run(`DELETE FROM ${table}`)
    await sql.run(
      `UPDATE gc_runs SET state = 'done', completed_at = ?, error = 'the registry was restored' WHERE state <> 'done'`,
      [ctx.now()],
    )
    // Whoever was logged in logs in again. A sealed token of another service is of no use without the key that sealed it.
    await sql.run(`DELETE FROM credentials WHERE kind IN ('login', 'session')`)
    if (!sameKey) await sql.run(`DELETE FROM credentials WHERE kind = 'external'`)
    await sql.run(`UPDATE credentials SET version = version + 1`)
    await sql.run(`UPDATE blobs SET state = 1 WHERE inc IN (SELECT value FROM json_each(?))`, [JSON.stringify(damaged)])
    append({ type: 'restored', detail: { snapshot: source.description.id, made_at: source.description.made_at } })
  })
}
