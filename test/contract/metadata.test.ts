import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { type FileDatabase, openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'

const open = async (
  name = 'mcr.db',
  directory = mkdtempSync(join(tmpdir(), 'mcr-db-')),
): Promise<FileDatabase & { path: string }> => {
  const path = join(directory, name)
  const database = await openDatabaseFile(path, {
    onFatal: (error) => {
      throw error
    },
  })
  return Object.assign(database, { path })
}
const table = {
  '0001-t': 'CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER UNIQUE, text TEXT, body BLOB, flag INTEGER) STRICT;',
}
const rows = async (db: FileDatabase) => (await db.read.all<{ n: number }>('SELECT n FROM t ORDER BY n')).map((row) => row.n)
const code = async (work: Promise<unknown>) =>
  await work.then(
    () => 'fine',
    (error: { code?: string; message: string }) => error.code ?? error.message,
  )

test('values come back as they went in: integers, text, bytes, null, truth', async () => {
  const db = await open()
  await migrate(db, table)
  const body = new Uint8Array(4 * 1024 * 1024).map((_, index) => index)
  await db.write((sql) => sql.run('INSERT INTO t(n, text, body, flag) VALUES (?, ?, ?, ?)', [2 ** 53 - 1, 'ü x', body, true]))
  const [row] = await db.read.all<{ n: number; text: string; body: Uint8Array; flag: number }>(
    'SELECT n, text, body, flag FROM t LIMIT ?',
    [1],
  )
  assert.equal(row?.n, 2 ** 53 - 1)
  assert.equal(row.text, 'ü x')
  assert.ok(Buffer.from(row.body).equals(Buffer.from(body)))
  assert.equal(row.flag, 1)
  for (const value of ['a\u0000b', {}, new Date(), [], () => 1, Symbol('x'), undefined])
    assert.equal(await code(db.read.all('SELECT ?', [value as never])), 'DB_ERROR')
  await db.close()
})

test('in a group the failing work goes alone; codes say why', async () => {
  const db = await open()
  await migrate(db, table)
  const results = await Promise.allSettled(
    Array.from({ length: 40 }, (_, index) =>
      db.write(async (sql) => {
        await sql.run('INSERT INTO t(n) VALUES (?)', [index])
        if (index % 4 === 1) throw new Error('mine')
        if (index % 4 === 2) await sql.run('INSERT INTO t(n) VALUES (0)')
        if (index % 4 === 3) await sql.run('INSERT INTO nowhere VALUES (1)')
        return index
      }),
    ),
  )
  results.forEach((result, index) => {
    if (index % 4 === 0) assert.equal(result.status, 'fulfilled')
    else
      assert.match(
        String((result as PromiseRejectedResult).reason.code ?? (result as PromiseRejectedResult).reason.message),
        [/./, /^mine$/, /^DB_CONSTRAINT$/, /^DB_ERROR$/][index % 4] as RegExp,
      )
  })
  assert.deepEqual(await rows(db), [0, 4, 8, 12, 16, 20, 24, 28, 32, 36])
  await db.close()
})

test('a write is answered however soon after another it comes: none waits for a third to wake the queue', async () => {
  const db = await open()
  await migrate(db, table)
  for (let turns = 0; turns < 40; turns++) {
    await db.write((sql) => sql.run('INSERT INTO t(n) VALUES (?)', [2 * turns]))
    for (let turn = 0; turn < turns; turn++) await Promise.resolve()
    const answered = db.write((sql) => sql.run('INSERT INTO t(n) VALUES (?)', [2 * turns + 1]))
    const patience = new Promise((resolve) => setTimeout(resolve, 10_000, 'nobody answers').unref())
    assert.equal(await Promise.race([answered, patience]), 1, `${turns} turns after`)
  }
  await db.close()
})

test('a full database fails the work that fills it, not its group, and nothing false is said (S1)', async () => {
  const db = await open()
  await migrate(db, table)
  await db.write(async (sql) => {
    const [pages] = await sql.all<{ page_count: number }>('PRAGMA page_count')
    await sql.all(`PRAGMA max_page_count = ${(pages?.page_count ?? 0) + 20}`)
  })
  const big = new Uint8Array(300_000)
  const results = await Promise.all(
    Array.from({ length: 12 }, (_, index) =>
      code(
        db.write(async (sql) => {
          await sql.run('INSERT INTO t(n, body) VALUES (?, ?)', [index, index === 5 ? big : null])
        }),
      ),
    ),
  )
  assert.deepEqual(
    results,
    Array.from({ length: 12 }, (_, index) => (index === 5 ? 'DB_FULL' : 'fine')),
  )
  assert.deepEqual(await rows(db), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
  await db.close()
})

test('revision moves on every commit of anybody and on checkpoints, and on nothing else', async () => {
  const db = await open()
  await migrate(db, table)
  const other = await openDatabaseFile(db.path, { onFatal: () => undefined })
  let last = db.revision()
  const moved = () => {
    const before = last
    last = db.revision()
    return last !== before
  }
  moved()
  await db.write((sql) => sql.run('INSERT INTO t(n) VALUES (1)'))
  assert.ok(moved(), 'own commit')
  await other.write((sql) => sql.run('INSERT INTO t(n) VALUES (2)'))
  assert.ok(moved(), "another connection's commit")
  await other.write((sql) => sql.run('UPDATE t SET n = 3 WHERE n = 2'))
  assert.ok(moved(), 'an update of the same size')
  await db.read.all('SELECT * FROM t')
  assert.ok(!moved(), 'a read')
  await code(
    db.write(async (sql) => {
      await sql.run('INSERT INTO t(n) VALUES (9)')
      throw new Error('no')
    }),
  )
  assert.ok(!moved(), 'a rollback')
  assert.ok((await db.checkpoint()).done)
  await db.write((sql) => sql.run('INSERT INTO t(n) VALUES (4)'))
  assert.ok(moved(), 'a commit after a checkpoint')
  await other.close()
  await db.close()
})

test('the log stays small when it is checkpointed, and what was acknowledged stays', async () => {
  const db = await open()
  await migrate(db, table)
  for (let round = 0; round < 5; round++) {
    for (let index = 0; index < 50; index++)
      await db.write((sql) => sql.run('INSERT INTO t(n, body) VALUES (?, ?)', [round * 50 + index, new Uint8Array(20_000)]))
    assert.ok((await db.checkpoint()).done)
  }
  assert.ok(db.walBytes() < 3_000_000, `${db.walBytes()} bytes`)
  assert.equal((await rows(db)).length, 250)
  await db.close()
})

const writer = (path: string, from: number, count: number) =>
  spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { openDatabaseFile } from '${new URL('../../runtime/database-file.ts', import.meta.url).href}'
       const db = await openDatabaseFile('${path}', { onFatal: (error) => { throw error } })
       const beat = setInterval(() => db.checkpoint().catch(() => {}), 5)
       for (let n = ${from}; n < ${from + count}; n++) { await db.write((sql) => sql.run('INSERT INTO t(n) VALUES (?)', [n])); process.stdout.write(n + '\\n') }
       clearInterval(beat); await db.close()`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )

test('two processes write while both checkpoint all the time: nothing acknowledged is lost', async () => {
  const db = await open()
  await migrate(db, table)
  const children = [writer(db.path, 0, 700), writer(db.path, 10_000, 700)]
  for (const child of children) child.stdout.resume()
  await Promise.all(children.map((child) => once(child, 'exit')))
  assert.equal((await rows(db)).length, 1400)
  const [check] = await db.read.all<{ integrity_check: string }>('PRAGMA integrity_check')
  assert.equal(check?.integrity_check, 'ok')
  await db.close()
})

test('what was acknowledged before a kill is there after it', async () => {
  const db = await open()
  await migrate(db, table)
  const child = writer(db.path, 0, 100_000)
  let text = ''
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk
    if (text.length > 2_000) child.kill('SIGKILL')
  })
  await once(child, 'close')
  const acknowledged = text.split('\n').filter((line, index, all) => line !== '' && index < all.length - 1)
  assert.ok(acknowledged.length > 100)
  const stored = new Set(await rows(db))
  assert.deepEqual(
    acknowledged.filter((line) => !stored.has(Number(line))),
    [],
  )
  await db.close()
})

test("another process's long transaction makes a writer wait, and does not stop the event loop", async () => {
  const db = await open()
  await migrate(db, table)
  const holder = spawn(
    process.execPath,
    [
      '-e',
      `const D = require('libsql'); const db = new D('${db.path}'); db.exec('BEGIN IMMEDIATE'); console.log('held'); setTimeout(() => { db.exec('ROLLBACK'); process.exit(0) }, 700)`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'], cwd: new URL('../..', import.meta.url).pathname },
  )
  await once(holder.stdout, 'data')
  let turns = 0
  const beat = setInterval(() => turns++, 5)
  await db.write((sql) => sql.run('INSERT INTO t(n) VALUES (1)'))
  clearInterval(beat)
  assert.ok(turns > 20, `${turns} turns of the event loop while it waited`)
  await db.close()
})

test('a database is refused that is newer, of another program, or whose past was edited', async () => {
  const db = await open()
  await migrate(db, table)
  await assert.rejects(migrate(db, {}), /0001-t, which this version does not know/)
  await assert.rejects(migrate(db, { '0001-t': `${table['0001-t']} ` }), /0001-t was edited/)
  assert.deepEqual(await migrate(db, { ...table, '0002-u': 'CREATE TABLE u (id INTEGER PRIMARY KEY) STRICT;' }), ['0002-u'])
  await db.close()
  const foreign = await open()
  await foreign.write((sql) => sql.run('CREATE TABLE theirs (x)'))
  await assert.rejects(migrate(foreign, table), /belongs to another program.*theirs/)
  await foreign.close()
})

test('a reader cannot write, and a new file is closed to others', async () => {
  const db = await open()
  await migrate(db, table)
  assert.equal(await code(db.read.run('INSERT INTO t(n) VALUES (1)')), 'DB_ERROR')
  assert.equal(statSync(db.path).mode & 0o777, 0o600)
  const reader = await openDatabaseFile(db.path, { onFatal: () => undefined, readOnly: true })
  assert.equal(
    await code(Promise.resolve().then(() => reader.write((sql) => sql.run('INSERT INTO t(n) VALUES (1)')))),
    'DB_ERROR',
  )
  await reader.close()
  await db.close()
})

test('the index of the log is opened once and stays open: closing it would drop the locks (H6)', async () => {
  const db = await open()
  await migrate(db, table)
  const descriptors = () =>
    readdirSync('/proc/self/fd').flatMap((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === `${db.path}-shm`
          ? [`${fd} ${readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').match(/ino:\s+(\d+)/)?.[1]}`]
          : []
      } catch {
        return []
      }
    })
  db.revision()
  const before = descriptors()
  for (let round = 0; round < 20; round++) {
    await db.write((sql) => sql.run('INSERT INTO t(n) VALUES (?)', [round]))
    db.revision()
  }
  assert.deepEqual(descriptors(), before)
  await db.close()
})
