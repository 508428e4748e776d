import type Database from 'libsql'
import { metadataError } from '../lib/metadata/errors.ts'
import type { Sql } from '../lib/metadata/sql.ts'

/** Columns that a process which only serves reads may set, by table. `*` is every one. */
const settable: Readonly<Record<string, readonly string[]>> = {
  repo_blobs: ['epoch'],
  manifests: ['epoch'],
  blobs: ['state'],
  credentials: ['last_used_at'],
  decisions: ['count', 'last_at'],
  login_failures: ['*'],
}
/** Tables it may add rows to, and take them from: the journal, the aggregate of decisions, failed logins. */
const insertable = ['journal', 'decisions', 'login_failures']
const deletable = ['login_failures']

const refusal = 'this process serves reads: it writes epochs, damage, counters and the journal, nothing else'

/**
 * Makes a connection refuse, inside SQLite, every row that is not one of W1's few kinds: temporary triggers, which no other connection
 * sees and no statement that passes `refusing` can drop. They cover the tables as they are now.
 */
export function guardMarks(db: Database.Database): void {
  db.exec('PRAGMA temp_store = 2')
  const tables = db.prepare(
    `SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%'`,
  )
  for (const { name } of tables.all() as { name: string }[]) {
    const guard = (kind: string, event: string, when = '') =>
      db.exec(
        `CREATE TEMP TRIGGER "guard_${name}_${kind}" BEFORE ${event} ON main."${name}" ${when} BEGIN SELECT RAISE(ABORT, '${refusal}'); END`,
      )
    if (!insertable.includes(name)) guard('insert', 'INSERT')
    if (!deletable.includes(name)) guard('delete', 'DELETE')
    const free = settable[name] ?? []
    const columns = (db.prepare(`SELECT name FROM pragma_table_info(?)`).all(name) as { name: string }[])
      .map((column) => column.name)
      .filter((column) => !free.includes(column))
    if (!free.includes('*')) guard('update', `UPDATE OF ${columns.map((column) => `"${column}"`).join(', ')}`)
    // Damage is seen here and healed by a push.
    if (name === 'blobs') guard('heal', 'UPDATE OF state', 'WHEN NEW.state < OLD.state')
  }
}

/** Triggers see rows only: of statements, those pass that read, or change rows of a table that may be changed. Errors: DB_ERROR. */
export function refusing(sql: Sql): Sql {
  const check = (text: string) => {
    if (/^\s*(SELECT|WITH)\b/i.test(text)) return
    const table = /^\s*(?:INSERT INTO|UPDATE|DELETE FROM) +(\w+)/i.exec(text)?.[1]
    if (table === undefined || !(Object.hasOwn(settable, table) || insertable.includes(table)))
      throw metadataError('DB_ERROR', refusal)
  }
  return {
    async all(text, args) {
      check(text)
      return await sql.all(text, args)
    },
    async run(text, args) {
      check(text)
      return await sql.run(text, args)
    },
  }
}
