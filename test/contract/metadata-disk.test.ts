// What the database does with its files, as the kernel sees it: in a process of its own under strace.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { openDatabaseFile } from '../../runtime/database-file.ts'

const strace = spawnSync('strace', ['-V']).status === 0
const skip = strace || process.env.CI ? false : 'strace is not installed: .ci/install-clients installs it'
const root = new URL('../../', import.meta.url).pathname

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'mcr-db-disk-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** The calls of a process that writes one row after another, asks for the revision between, and checkpoints; paths by their ends. */
function trace(t: TestContext): string[] {
  const directory = scratch(t)
  const log = join(directory, 'trace')
  const code = `
    import { writeSync } from 'node:fs'
    import { openDatabaseFile } from '${root}runtime/database-file.ts'
    const db = await openDatabaseFile('${directory}/mcr.db', { onFatal: (error) => { throw error } })
    await db.write((sql) => sql.run('CREATE TABLE t (n INTEGER)'))
    db.revision()
    writeSync(1, 'begin')
    for (let n = 0; n < 5; n++) {
      await db.write((sql) => sql.run('INSERT INTO t VALUES (?)', [n]))
      writeSync(1, 'answered')
      db.revision()
      await db.read.all('SELECT count(*) FROM t')
    }
    await db.checkpoint()
    await db.write((sql) => sql.run('INSERT INTO t VALUES (9)'))
    db.revision()
    writeSync(1, 'end')
    process.exit(0)`
  const calls = 'trace=openat,close,write,pwrite64,fsync,fdatasync'
  const run = spawnSync('strace', ['-f', '-y', '-o', log, '-e', calls, process.execPath, '--input-type=module', '-e', code], {
    encoding: 'utf8',
    cwd: root,
  })
  assert.equal(run.status, 0, run.stderr)
  const lines = readFileSync(log, 'utf8').split('\n')
  const at = (text: string) => lines.findIndex((line) => line.includes('write(1<') && line.includes(`"${text}"`))
  assert.ok(at('begin') > 0 && at('end') > at('begin'))
  return lines.slice(at('begin'), at('end')).map((line) => line.replaceAll(directory, ''))
}

test('nobody is answered before the log that holds the commit is on the disk', { skip }, (t) => {
  let written = false
  let answers = 0
  for (const call of trace(t)) {
    if (/pwrite64\(\d+<\/mcr\.db-wal>/.test(call)) written = true
    if (/f(data)?sync\(\d+<\/mcr\.db-wal>/.test(call)) written = false
    if (!call.includes('"answered"')) continue
    answers++
    assert.equal(written, false, 'an answer while the log was only written')
  }
  assert.equal(answers, 5)
})

test('no descriptor of the database, its log or its index is closed while it is open: the locks would go with it', {
  skip,
}, (t) => {
  const closed = trace(t).filter((call) => /close\(\d+<\/mcr\.db(-wal|-shm)?>/.test(call))
  assert.deepEqual(closed, [])
})

test('a checkpoint waits for the write lock: beside a writer it could lose what that one commits', async (t) => {
  const path = join(scratch(t), 'mcr.db')
  const db = await openDatabaseFile(path, { onFatal: (error) => Promise.reject(error) })
  await db.write((sql) => sql.run('CREATE TABLE t (n INTEGER)'))
  const holder = spawn(
    process.execPath,
    [
      '-e',
      `const D = require('libsql'); const db = new D('${path}'); db.exec('BEGIN IMMEDIATE'); console.log('held')
       process.stdin.once('data', () => { db.exec('ROLLBACK'); process.exit(0) })`,
    ],
    { stdio: ['pipe', 'pipe', 'inherit'], cwd: root },
  )
  await once(holder.stdout, 'data')
  let done = false
  const checkpoint = db.checkpoint().then((report) => {
    done = true
    return report
  })
  // Turns of the event loop, and tries for the lock, not a time.
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setTimeout(resolve, 5))
  assert.equal(done, false, 'it ran beside the writer')
  holder.stdin.write('go')
  assert.equal((await checkpoint).done, true)
  await db.close()
})

test('the connection that writes has the settings that its promises rest on', async (t) => {
  const db = await openDatabaseFile(join(scratch(t), 'mcr.db'), { onFatal: (error) => Promise.reject(error) })
  const settings: Record<string, unknown> = {}
  for (const name of ['journal_mode', 'synchronous', 'foreign_keys', 'wal_autocheckpoint', 'mmap_size', 'trusted_schema'])
    settings[name] = await db.write(async (sql) => Object.values((await sql.all(`PRAGMA ${name}`))[0] ?? {})[0])
  assert.deepEqual(settings, {
    journal_mode: 'wal',
    synchronous: 2,
    foreign_keys: 1,
    wal_autocheckpoint: 0,
    mmap_size: 0,
    trusted_schema: 0,
  })
  await db.close()
})

test('a read beside a transaction that is not committed sees nothing of it', async (t) => {
  const db = await openDatabaseFile(join(scratch(t), 'mcr.db'), { onFatal: (error) => Promise.reject(error) })
  await db.write((sql) => sql.run('CREATE TABLE t (n INTEGER)'))
  const beside = await db.write(async (sql) => {
    await sql.run('INSERT INTO t VALUES (1)')
    return await db.read.all('SELECT n FROM t')
  })
  assert.deepEqual(beside, [])
  assert.deepEqual(await db.read.all('SELECT n FROM t'), [{ n: 1 }])
  await db.close()
})

test("a COMMIT that fails is nobody's success, and in a group only its culprit's failure", async (t) => {
  const db = await openDatabaseFile(join(scratch(t), 'mcr.db'), { onFatal: (error) => Promise.reject(error) })
  await db.write(async (sql) => {
    await sql.run('CREATE TABLE parent (id INTEGER PRIMARY KEY)')
    await sql.run('CREATE TABLE child (parent INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)')
  })
  const orphan = () => db.write((sql) => sql.run('INSERT INTO child VALUES (7)'))
  const fine = (id: number) => db.write((sql) => sql.run('INSERT INTO parent VALUES (?)', [id]))
  const say = (work: Promise<unknown>) =>
    work.then(
      () => 'done',
      (error: { code: string }) => error.code,
    )
  assert.equal(await say(orphan()), 'DB_CONSTRAINT')
  assert.deepEqual(await Promise.all([fine(1), orphan(), fine(2)].map(say)), ['done', 'DB_CONSTRAINT', 'done'])
  assert.deepEqual(await db.read.all('SELECT id FROM parent ORDER BY id'), [{ id: 1 }, { id: 2 }])
  assert.deepEqual(await db.read.all('SELECT parent FROM child'), [])
  await db.close()
})

test('a work that fills the disk fails alone, whoever shares its commit, again and again', async (t) => {
  const db = await openDatabaseFile(join(scratch(t), 'mcr.db'), { onFatal: (error) => Promise.reject(error) })
  await db.write((sql) => sql.run('CREATE TABLE t (n INTEGER, body BLOB)'))
  await db.write(async (sql) => {
    const [pages] = await sql.all<{ page_count: number }>('PRAGMA page_count')
    await sql.all(`PRAGMA max_page_count = ${(pages?.page_count ?? 0) + 20}`)
  })
  const insert = (n: number, bytes: number) =>
    db
      .write((sql) => sql.run('INSERT INTO t VALUES (?, ?)', [n, new Uint8Array(bytes)]))
      .then(
        () => 'done',
        (error: { code: string }) => error.code,
      )
  const expected: { n: number }[] = []
  // A group is cut short where the machine is slow, so that one round may not be a group: of ten, some are.
  for (let n = 0; n < 20; n += 2) {
    const answers = await Promise.all([insert(n, 1), insert(-1, 300_000), insert(n + 1, 1)])
    assert.deepEqual(answers, ['done', 'DB_FULL', 'done'])
    expected.push({ n }, { n: n + 1 })
    assert.deepEqual(await db.read.all('SELECT n FROM t ORDER BY n'), expected)
  }
  await db.close()
})
