// Migrates a database and dies by SIGKILL at the n-th statement of a named migration; `node migrate-until.ts <database> <migration> <n>`.
// Prints what it did where it comes to its end.
import { readdirSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import type { MetadataStore, Sql } from '../../lib/metadata/sql.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'

const [path, last, at] = process.argv.slice(2) as [string, string, string]
const folder = new URL('../../migrations/', import.meta.url).pathname
const migrations = Object.fromEntries(
  readdirSync(folder)
    .filter((file) => file.endsWith('.sql') && basename(file, '.sql') <= last)
    .map((file) => [basename(file, '.sql'), readFileSync(`${folder}${file}`, 'utf8')]),
)
const database = await openDatabaseFile(path, {
  onFatal: (error) => {
    throw error
  },
})
let statements = 0
const counting = (sql: Sql): Sql => ({
  all: sql.all,
  async run(text, args) {
    if (++statements === Number(at)) process.kill(process.pid, 'SIGKILL')
    return await sql.run(text, args)
  },
})
const dying: MetadataStore = { ...database, write: (work) => database.write((sql, append) => work(counting(sql), append)) }
const ran = await migrate(dying, migrations)
await database.close()
console.log(JSON.stringify({ ran, statements }))
