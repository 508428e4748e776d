import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deflateRawSync } from 'node:zlib'
import { copyDatabase, openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'

/** A database with every migration in it and no row, deflated and in base64: what a first start begins with. */
export async function makeEmptyDatabase(migrations: Readonly<Record<string, string>>): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'mcr-build-'))
  const [migrated, whole] = [join(dir, 'migrated'), join(dir, 'whole')]
  const open = async (path: string) =>
    await openDatabaseFile(path, {
      onFatal: (error) => {
        throw error
      },
    })
  try {
    const database = await open(migrated)
    await migrate(database, migrations)
    await database.close()
    copyDatabase(migrated, whole)
    // Opened once as the registry opens it, so that it is in the journal mode that a start asks for.
    await (await open(whole)).close()
    return deflateRawSync(readFileSync(whole), { level: 9 }).toString('base64')
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}
