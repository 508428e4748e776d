import { createHash } from 'node:crypto'
import type { MetadataStore, Sql } from '../lib/metadata/sql.ts'

interface Ran {
  name: string
  sum: string
  /** The oldest program that may run on a database with it, by the number of that program's newest migration; null: none that lacks it. */
  compatibleFrom: string | null
}

/**
 * Brings a database to the newest schema in one transaction; processes that start together wait for one another.
 * `migrations` are SQL texts by name, numbered. Shape: the names that ran now.
 * A newer database is taken when every migration that this program lacks says that a program of this age may run beside it.
 * Errors: a plain Error that says what to do, for a database of another program, one too new, or one whose past was edited.
 */
export async function migrate(store: MetadataStore, migrations: Readonly<Record<string, string>>): Promise<string[]> {
  if ((await missingMigration(store, migrations)) === undefined) return []
  return await store.write(async (sql) => {
    await claim(sql)
    const ran = await readRan(sql)
    for (const row of ran) checkRan(row, migrations)
    const names = Object.keys(migrations)
      .sort()
      .filter((name) => !ran.some((row) => row.name === name))
    for (const name of names) {
      const text = migrations[name] as string
      for (const statement of splitStatements(text)) await sql.run(statement)
      await sql.run(`INSERT INTO mcr_schema(name, sum, compatible_from) VALUES (?, ?, ?)`, [
        name,
        sumOf(text),
        compatibleFrom(text),
      ])
    }
    return names
  })
}

/**
 * What a process that does not migrate still has to wait for, or undefined: the table of another version's schema is no error until then.
 * Errors: as `migrate`, for a database that is too new or one whose past was edited.
 */
export async function missingMigration(
  store: Pick<MetadataStore, 'read'>,
  migrations: Readonly<Record<string, string>>,
): Promise<string | undefined> {
  const [table] = await store.read.all<{ sql: string }>(`SELECT sql FROM sqlite_schema WHERE name = 'mcr_schema'`)
  if (!table) return 'the database has no schema yet'
  if (!table.sql.includes('compatible_from')) return 'the database is of an older version'
  const done = await readRan(store.read)
  for (const row of done) checkRan(row, migrations)
  const missing = Object.keys(migrations).find((name) => !done.some((row) => row.name === name))
  return missing === undefined ? undefined : `the database lacks migration ${missing}`
}

/** What a migration says of programs that lack it: a line `-- compatible-from: <number>`. */
export function compatibleFrom(text: string): string | null {
  return /^-- compatible-from: ([0-9]{4})$/m.exec(text)?.[1] ?? null
}

const readRan = async (sql: Pick<Sql, 'all'>) =>
  await sql.all<Ran & object>(`SELECT name, sum, compatible_from AS "compatibleFrom" FROM mcr_schema ORDER BY name`)
const sumOf = (text: string) => createHash('sha256').update(text).digest('hex')

function checkRan({ name, sum, compatibleFrom: from }: Ran, migrations: Readonly<Record<string, string>>): void {
  const text = migrations[name]
  const newest = Object.keys(migrations).sort().at(-1)?.slice(0, 4) ?? ''
  if (text === undefined && (from === null || newest < from))
    throw new Error(
      `the database has migration ${name}, which this version does not know: run the version that made it, or a newer one${
        from === null ? '' : ` (versions whose newest migration is ${from} or later can; here it is ${newest})`
      }`,
    )
  if (text !== undefined && sumOf(text) !== sum)
    throw new Error(`migration ${name} was edited after it ran on this database: restore the released text`)
}

/** A database is ours if it has our table, new if it has none. */
async function claim(sql: Sql): Promise<void> {
  const tables = await sql.all<{ name: string }>(
    `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name`,
  )
  const names = tables.map((table) => table.name)
  if (names.includes('mcr_schema')) {
    const [table] = await sql.all<{ sql: string }>(`SELECT sql FROM sqlite_schema WHERE name = 'mcr_schema'`)
    if (!table?.sql.includes('compatible_from')) await sql.run(`ALTER TABLE mcr_schema ADD COLUMN compatible_from TEXT`)
    return
  }
  if (names.length > 0)
    throw new Error(
      `the database belongs to another program (it has ${names.slice(0, 3).join(', ')}): point database.path or database.url elsewhere`,
    )
  await sql.run(`CREATE TABLE mcr_schema (name TEXT PRIMARY KEY, sum TEXT NOT NULL, compatible_from TEXT) STRICT, WITHOUT ROWID`)
}

/** Statements of a migration: parted by semicolons that end a line, a trigger's body kept whole. */
function splitStatements(text: string): string[] {
  const statements: string[] = []
  let current = ''
  for (const line of text.replace(/^\s*--.*$/gm, '').split('\n')) {
    current += `${line}\n`
    const inTrigger = /^\s*CREATE TRIGGER/i.test(current)
    if (inTrigger ? /\bEND;\s*$/.test(line) : /;\s*$/.test(line)) {
      if (current.trim() !== '') statements.push(current.trim())
      current = ''
    }
  }
  if (current.trim() !== '') statements.push(current.trim())
  return statements
}
