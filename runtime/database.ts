import type { MetadataStore } from '../lib/metadata/sql.ts'
import type { Config } from './config.ts'
import type { DatabaseFileOptions } from './database-file.ts'

/** A metadata store, and what only one that is a file of ours has. */
export interface Database extends MetadataStore {
  /** Size of the write-ahead log, 0 where it is not ours. */
  walBytes(): number
  /** Copies the log into the database; absent where a server does it. */
  checkpoint?(): Promise<{ done: boolean; walBytes: number }>
}

/**
 * The store that the configuration names: a libSQL server's, else a local file. A driver is loaded only by who opens something with it: the
 * commands that ask a server, and `mcr --help`, work where the driver cannot be. Errors: as theirs.
 */
export async function openDatabase(
  { database }: Pick<Config, 'database'>,
  options: Omit<DatabaseFileOptions, 'readOnly'>,
): Promise<Database> {
  if (database.url === undefined) {
    const { openDatabaseFile } = await import('./database-file.ts')
    return await openDatabaseFile(database.path, options)
  }
  const { openDatabaseRemote } = await import('./database-remote.ts')
  return { ...openDatabaseRemote(database.url, database.authToken), walBytes: () => 0 }
}
