import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { copyDatabase, openDatabaseFile } from '../../runtime/database-file.ts'
import type { EmptyDatabase } from '../../runtime/empty-database.ts'
import { migrate } from '../../runtime/migrate.ts'

/** A database with every migration in it and no row: what a first start begins with. */
export async function makeEmptyDatabase(migrations: Readonly<Record<string, string>>): Promise<EmptyDatabase> {
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
    return withoutZeros(readFileSync(whole))
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Fewer zeros take less room than the place of what comes after them would. */
const leastZeros = 32

function withoutZeros(file: Buffer): EmptyDatabase {
  const pieces: [at: number, base64: string][] = []
  const zeros = Buffer.alloc(leastZeros)
  for (let at = 0; at < file.length; ) {
    const found = file.indexOf(zeros, at)
    const end = found < 0 ? file.length : found
    if (end > at) pieces.push([at, file.toString('base64', at, end)])
    for (at = end; file[at] === 0; at++);
  }
  return { bytes: file.length, pieces }
}
