import { isSea } from 'node:sea'
import type { Assets } from '../app.ts'

/** `mcr --version --verbose`: the program and what it stands on, or why that cannot be loaded. */
export async function describeVersion(assets: Pick<Assets, 'version' | 'driver'>): Promise<string> {
  const sqlite = await sqliteVersion().catch((error) => `cannot be loaded: ${(error as Error).message}`)
  return [
    `mcr ${assets.version}, ${isSea() ? 'single executable' : 'bundle on an installed Node'}`,
    `node ${process.versions.node}, openssl ${process.versions.openssl}, ${process.platform}-${process.arch}`,
    `libsql ${assets.driver}, sqlite ${sqlite}`,
  ].join('\n')
}

async function sqliteVersion(): Promise<string> {
  const { createClient } = await import('@libsql/client')
  const database = createClient({ url: ':memory:' })
  const { rows } = await database.execute('SELECT sqlite_version() AS version')
  database.close()
  return String(rows[0]?.version)
}
