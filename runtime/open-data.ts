import { existsSync, statSync } from 'node:fs'
import type { BlobStore } from '../lib/blobs/blob-store.ts'
import type { Base } from '../lib/context.ts'
import type { Assets } from './app.ts'
import { openBlobsFs } from './blobs-fs.ts'
import { missingRoot } from './blobs-fs-root.ts'
import type { Config } from './config.ts'
import { type Database, openDatabase } from './database.ts'
import { layEmptyDatabase } from './empty-database.ts'
import { migrate, missingMigration } from './migrate.ts'
import { type Opening, openFor, untilMade } from './ports.ts'
import { checkRollback } from './rollback.ts'
import type { Space } from './space.ts'
import { makeDirectory } from './sync-names.ts'

/** What both of a registry's stores are opened with. */
export interface DataOptions extends Pick<Base, 'log' | 'now' | 'newId'> {
  config: Config
  opening: Opening
  space: Space
}

const waiting =
  ({ log }: DataOptions) =>
  (missing: string) =>
    log({ level: 'warn', event: 'waiting', missing })

/**
 * The database with the newest schema. A process that may only leave marks makes nothing: it waits for one that does.
 * Errors: a plain Error that says what to change.
 */
export async function openMetadata(
  options: DataOptions,
  assets: Pick<Assets, 'migrations' | 'emptyDatabase'>,
  onFatal: (error: Error) => void,
): Promise<Database> {
  const { config, opening, space, log } = options
  const { path, url } = config.database
  const marksOnly = opening.database === 'marks'
  if (!marksOnly) prepareRoot(config.storage.root)
  if (url === undefined) {
    if (marksOnly) await untilMade(async () => (existsSync(path) ? undefined : `there is no database ${path}`), waiting(options))
    else if (assets.emptyDatabase !== undefined) layEmptyDatabase(path, assets.emptyDatabase)
  }
  const database = await openDatabase(config, {
    onFatal: (error) => {
      log({ level: 'error', event: 'database_lost', error: String(error) })
      onFatal(error)
    },
    onFull: space.full,
    writes: opening.database,
  })
  if (marksOnly) await untilMade(() => missingInDatabase(database, assets.migrations), waiting(options))
  else await migrate(database, assets.migrations)
  return database
}

/**
 * The blob store, as far as this process needs one, beside a database that is not older than it. `rollback`: what to do where it is.
 * Errors: a plain Error that says what to change.
 */
export async function openBlobs(
  options: DataOptions & { maxOpenFiles: number },
  database: Database,
  rollback: 'refuse' | 'accept',
): Promise<BlobStore | undefined> {
  const { config, opening, space, now, newId, log, maxOpenFiles } = options
  const store = opening.blobs
  if (!store) return undefined
  if (store.access === 'read') await openFor(store.for, () => untilMade(() => missingRoot(config.storage), waiting(options)))
  const blobs = await openFor(store.for, async () =>
    openBlobsFs({
      ...config.storage,
      access: store.access,
      readers: config.server.accel === 'off' ? undefined : 'group',
      minBytesPerSecond: config.server.minBodyRate,
      rateWindowMs: 60_000,
      admit: space.admit,
      maxOpenFiles,
      newId,
      // A root without its marker is an unmounted volume when the database names blobs, and a first start when it does not.
      expectExisting: (await database.read.all('SELECT 1 AS one FROM blobs LIMIT 1')).length > 0,
    }),
  )
  const where = { database: config.database.path, layersPath: config.storage.layersPath }
  await checkRollback({ metadata: database, now, newId, log }, blobs, where, rollback)
  return blobs
}

async function missingInDatabase(database: Database, migrations: Assets['migrations']): Promise<string | undefined> {
  const missing = await missingMigration(database, migrations)
  if (missing !== undefined) return missing
  const [instance] = await database.read.all('SELECT 1 AS one FROM instance')
  return instance ? undefined : 'the database is not filled yet'
}

/** Errors: a plain Error where others could write to the data. */
function prepareRoot(root: string): void {
  makeDirectory(root)
  const { mode } = statSync(root)
  if ((mode & 0o022) !== 0) throw new Error(`storage.root ${root} can be written by others: chmod go-w ${root}`)
}
