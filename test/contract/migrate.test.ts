// What an upgrade does to a database: killed at any statement it is as before and the next start finishes; what is too new is refused.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, test } from 'node:test'
import { makeEmptyDatabase } from '../../deploy/build/empty-database.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { layEmptyDatabase } from '../../runtime/empty-database.ts'
import { compatibleFrom, migrate, missingMigration } from '../../runtime/migrate.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-migrate-'))
after(() => rmSync(scratch, { recursive: true, force: true }))
const texts = Object.fromEntries(
  readdirSync('migrations')
    .sort()
    .map((file) => [basename(file, '.sql'), readFileSync(`migrations/${file}`, 'utf8')]),
)
const names = Object.keys(texts)
let count = 0

const open = async (path = join(scratch, `${++count}.db`)) =>
  await openDatabaseFile(path, {
    onFatal: (error) => {
      throw error
    },
  })

async function schemaOf(path: string): Promise<string[]> {
  const database = await open(path)
  const rows = await database.read.all<{ name: string; sql: string }>(
    `SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY type, name`,
  )
  const [check] = await database.read.all<{ result: string }>(`SELECT integrity_check AS result FROM pragma_integrity_check`)
  assert.equal(check?.result, 'ok')
  await database.close()
  return rows.map(({ sql }) => sql)
}

const migrateIn = (path: string, last: string, at = 0) =>
  spawnSync(process.execPath, ['test/support/migrate-until.ts', path, last, String(at)], { encoding: 'utf8' })

function copyDatabase(from: string, to: string): void {
  for (const end of ['', '-wal']) if (existsSync(`${from}${end}`)) copyFileSync(`${from}${end}`, `${to}${end}`)
}

test('a migration that is killed at any statement has not happened, and the next start finishes it', {
  timeout: 240_000,
}, async () => {
  const wanted = join(scratch, 'wanted.db')
  assert.equal(migrateIn(wanted, names.at(-1) as string).status, 0)
  const goal = await schemaOf(wanted)
  // Each migration on a database that has those before it, with a row in it that must stay.
  for (const [index, name] of names.entries()) {
    const base = join(scratch, `base-${name}.db`)
    if (index > 0) assert.equal(migrateIn(base, names[index - 1] as string).status, 0)
    const whole = join(scratch, `whole-${name}.db`)
    if (index > 0) copyDatabase(base, whole)
    const { statements } = JSON.parse(migrateIn(whole, name).stdout) as { statements: number }
    // Long ones at every statement only when asked: `MCR_TEST_EVERY=1`.
    const step = process.env.MCR_TEST_EVERY ? 1 : Math.max(1, Math.floor(statements / 4))
    for (let at = 1; at <= statements; at += step) {
      const path = join(scratch, `killed-${name}-${at}.db`)
      if (index > 0) copyDatabase(base, path)
      assert.equal(migrateIn(path, name, at).signal, 'SIGKILL', `${name} at ${at}`)
      const half = await open(path)
      const known = await half.read.all<{ name: string }>(`SELECT name FROM sqlite_schema WHERE name = 'mcr_schema'`)
      const ran = known.length > 0 ? await half.read.all<{ name: string }>('SELECT name FROM mcr_schema ORDER BY name') : []
      await half.close()
      assert.deepEqual(
        ran.map((row) => row.name),
        names.slice(0, index),
        `${name} at ${at}: it left a part of itself`,
      )
      const finished = await open(path)
      assert.deepEqual(await migrate(finished, texts), names.slice(index))
      await finished.close()
      assert.deepEqual(await schemaOf(path), goal)
    }
  }
})

test('a newer database is taken where its migrations say that this version may run beside them, and refused elsewhere', async () => {
  const known = names.at(-1)?.slice(0, 4) as string
  const rows: [what: string, from: string, refusal: RegExp | undefined][] = [
    ['added things only', `-- compatible-from: ${known}\nCREATE TABLE extra (x INTEGER) STRICT;\n`, undefined],
    [
      'for later versions only',
      '-- compatible-from: 9000\nCREATE TABLE extra2 (x INTEGER) STRICT;\n',
      /9001-x, which this version does not know.*9000 or later can; here it is/,
    ],
    ['for none that lacks it', 'CREATE TABLE extra3 (x INTEGER) STRICT;\n', /9002-x, which this version does not know/],
  ]
  for (const [index, [what, text, refusal]] of rows.entries()) {
    const database = await open()
    await migrate(database, { ...texts, [`900${index}-x`]: text })
    for (const start of [() => migrate(database, texts), () => missingMigration(database, texts)])
      if (refusal) await assert.rejects(start(), refusal, what)
      else assert.equal(String((await start()) ?? ''), '', what)
    await database.close()
    assert.equal(compatibleFrom(text) === null, what === 'for none that lacks it')
  }
})

test('a database from before versions said what they are compatible with is taken over', async () => {
  const database = await open()
  await database.write((sql) =>
    sql.run(`CREATE TABLE mcr_schema (name TEXT PRIMARY KEY, sum TEXT NOT NULL) STRICT, WITHOUT ROWID`),
  )
  assert.match((await missingMigration(database, texts)) ?? '', /older version/)
  assert.deepEqual(await migrate(database, texts), names)
  assert.equal(await missingMigration(database, texts), undefined)
  await database.close()
})

test('every migration since the rule says which programs may run beside it', () => {
  for (const name of names.filter((entry) => entry > '0004-pins')) {
    const from = compatibleFrom(texts[name] as string)
    assert.ok(
      from !== null && from <= name.slice(0, 4),
      `${name}: its first line must be "-- compatible-from: NNNN", NNNN being the newest migration of the oldest program that still works on a database with it (docs/decisions, "Old and new side by side"); its own number where there is none`,
    )
  }
})

test('the empty database that a build carries is what the migrations make, and is laid only where there is none', async () => {
  const carried = await makeEmptyDatabase(texts)
  assert.deepEqual(await makeEmptyDatabase(texts), carried, 'the same to the byte')
  const path = join(scratch, 'laid.db')
  layEmptyDatabase(path, carried)
  assert.equal(statSync(path).mode & 0o777, 0o600)
  const laid = await open(path)
  assert.deepEqual(await migrate(laid, texts), [])
  await laid.write((sql) => sql.run(`INSERT INTO instance(id, name, created_at) VALUES (1, 'mcr-test', 0)`))
  await laid.close()
  const wanted = join(scratch, 'migrated.db')
  const migrated = await open(wanted)
  await migrate(migrated, texts)
  await migrated.close()
  assert.deepEqual(await schemaOf(path), await schemaOf(wanted))
  layEmptyDatabase(path, carried)
  const kept = await open(path)
  assert.equal((await kept.read.all('SELECT 1 FROM instance')).length, 1, 'what is there stays')
  await kept.close()
  // A log without its database is one that somebody lost: nothing of it may come into a new one.
  const orphan = join(scratch, 'orphan.db')
  writeFileSync(`${orphan}-wal`, 'a log')
  layEmptyDatabase(orphan, carried)
  assert.ok(!existsSync(orphan))
  assert.deepEqual(
    readdirSync(scratch).filter((name) => /^laid\.db\./.test(name)),
    [],
    'nothing is left beside it',
  )
})
