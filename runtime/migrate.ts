import { createHash } from 'node:crypto'
import type { MetadataStore, Sql } from '../lib/metadata/sql.ts'

/**
 * Brings a database to the newest schema, each migration in a transaction of its own; processes that start together wait for one another.
 * `migrations` are SQL texts by name, numbered. Shape: the names that ran now.
 * Errors: a plain Error that says what to do, for a database of another program, a newer one, or one whose past was edited.
 */
export async function migrate(store: MetadataStore, migrations: Readonly<Record<string, string>>): Promise<string[]> {
  const names = Object.keys(migrations).sort()
  const ran: string[] = []
  await store.write(async (sql) => {
    await claim(sql)
    const done = await sql.all<{ name: string; sum: string }>(`SELECT name, sum FROM mcr_schema ORDER BY name`)
    for (const row of done) checkRan(row.name, row.sum, migrations)
  })
  for (const name of names) {
    const text = migrations[name] as string
    const sum = createHash('sha256').update(text).digest('hex')
    const isNew = await store.write(async (sql) => {
      const done = await sql.all<{ name: string; sum: string }>(`SELECT name, sum FROM mcr_schema ORDER BY name`)
      const before = done.find((row) => row.name === name)
      if (before) return false
      for (const statement of splitStatements(text)) await sql.run(statement)
      await sql.run(`INSERT INTO mcr_schema(name, sum) VALUES (?, ?)`, [name, sum])
      return true
    })
    if (isNew) ran.push(name)
  }
  return ran
}

/**
 * What a process that does not migrate still has to wait for, or undefined: the table of another version's schema is no error until then.
 * Errors: as `migrate`, for a newer database or one whose past was edited.
 */
export async function missingMigration(
  store: Pick<MetadataStore, 'read'>,
  migrations: Readonly<Record<string, string>>,
): Promise<string | undefined> {
  const [table] = await store.read.all(`SELECT 1 AS one FROM sqlite_schema WHERE name = 'mcr_schema'`)
  if (!table) return 'the database has no schema yet'
  const done = await store.read.all<{ name: string; sum: string }>(`SELECT name, sum FROM mcr_schema ORDER BY name`)
  for (const { name, sum } of done) checkRan(name, sum, migrations)
  const missing = Object.keys(migrations).find((name) => !done.some((row) => row.name === name))
  return missing === undefined ? undefined : `the database lacks migration ${missing}`
}

function checkRan(name: string, sum: string, migrations: Readonly<Record<string, string>>): void {
  const text = migrations[name]
  if (text === undefined)
    throw new Error(
      `the database has migration ${name}, which this version does not know: run the version that made it, or a newer one`,
    )
  if (createHash('sha256').update(text).digest('hex') !== sum)
    throw new Error(`migration ${name} was edited after it ran on this database: restore the released text`)
}

/** A database is ours if it has our table, new if it has none. */
async function claim(sql: Sql): Promise<void> {
  const tables = await sql.all<{ name: string }>(
    `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name`,
  )
  const names = tables.map((table) => table.name)
  if (names.includes('mcr_schema')) return
  if (names.length > 0)
    throw new Error(
      `the database belongs to another program (it has ${names.slice(0, 3).join(', ')}): point database.path or database.url elsewhere`,
    )
  await sql.run(`CREATE TABLE mcr_schema (name TEXT PRIMARY KEY, sum TEXT NOT NULL) STRICT, WITHOUT ROWID`)
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
