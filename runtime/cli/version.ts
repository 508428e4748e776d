import { isSea } from 'node:sea'
import type { Assets } from '../app.ts'

/** `mcr --version --verbose`: the program and what it stands on. */
export async function describeVersion(assets: Pick<Assets, 'version' | 'driver'>): Promise<string> {
  const { createClient } = await import('@libsql/client')
  const database = createClient({ url: ':memory:' })
  const { rows } = await database.execute('SELECT sqlite_version() AS version')
  database.close()
  return [
    `mcr ${assets.version}, ${isSea() ? 'single executable' : 'bundle on an installed Node'}`,
    `node ${process.versions.node}, openssl ${process.versions.openssl}, ${process.platform}-${process.arch}`,
    `sqlite ${rows[0]?.version}, by libsql ${assets.driver}`,
  ].join('\n')
}
