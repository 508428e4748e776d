// One suite over both stores: a local file, and a libSQL server. The server is a real one, from npm.
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { verifyJournal } from '../../lib/journal/verify.ts'
import type { MetadataStore } from '../../lib/metadata/sql.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { openDatabaseRemote } from '../../runtime/database-remote.ts'
import { migrate } from '../../runtime/migrate.ts'
import { sha256 } from '../../runtime/sha256.ts'
import { findTool } from '../support/process.ts'
import { startSqld } from '../support/sqld.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-both-'))
let server: Awaited<ReturnType<typeof startSqld>> | undefined
after(async () => {
  await server?.stop()
  rmSync(scratch, { recursive: true, force: true })
})

const schema = readFileSync('migrations/0001-registry.sql', 'utf8')
const access = readFileSync('migrations/0002-access.sql', 'utf8')
const stores: [name: string, open: () => Promise<MetadataStore>][] = [
  ['file', async () => await openDatabaseFile(join(scratch, 'both.db'), { onFatal: (error) => Promise.reject(error) })],
  [
    'server',
    async () => {
      server = await startSqld()
      return openDatabaseRemote(server.url, undefined)
    },
  ],
]
const code = async (work: Promise<unknown>) =>
  await work.then(
    () => 'fine',
    (error: { code?: string; message: string }) => error.code ?? error.message,
  )

// On a person's machine without the server its half is named as skipped; in CI that is a failure.
const missing = findTool('sqld') || process.env.CI ? false : 'sqld is not installed: .ci/install-clients installs it'

for (const [name, open] of stores)
  test(`${name}: the whole contract`, { skip: name === 'server' && missing }, async (t) => {
    const store = await open()
    await t.test('migrates once', async () => {
      assert.deepEqual(await migrate(store, { '0001-registry': schema }), ['0001-registry'])
      assert.deepEqual(await migrate(store, { '0001-registry': schema, '0002-access': access }), ['0002-access'])
    })
    await t.test('values come back as they went in', async () => {
      const body = new Uint8Array(4 * 1024 * 1024).map((_, index) => index)
      await store.write(async (sql) => await sql.run('INSERT INTO manifest_bodies(digest, body) VALUES (?, ?)', ['d', body]))
      const [row] = await store.read.all<{ digest: string; body: Uint8Array; n: number; empty: null }>(
        'SELECT digest, body, 9007199254740991 AS n, NULL AS empty FROM manifest_bodies',
      )
      assert.ok(row && row.body instanceof Uint8Array && Buffer.from(row.body).equals(Buffer.from(body)))
      assert.equal(row.n, Number.MAX_SAFE_INTEGER)
      assert.equal(row.empty, null)
    })
    await t.test('a work that throws leaves nothing; RETURNING and changes tell what happened', async () => {
      const failed = store.write(async (sql) => {
        await sql.run('INSERT INTO repositories(name, created_at) VALUES (?, ?)', ['gone', 1])
        throw new Error('mine')
      })
      await assert.rejects(failed, /mine/)
      const made = await store.write(
        async (sql) =>
          await sql.all<{ id: number }>('INSERT INTO repositories(name, created_at) VALUES (?, ?) RETURNING id', ['kept', 1]),
      )
      assert.equal(typeof made[0]?.id, 'number')
      assert.equal(await store.write((sql) => sql.run('UPDATE repositories SET visible = 1 WHERE name = ?', ['kept'])), 1)
      assert.equal(await store.write((sql) => sql.run('UPDATE repositories SET visible = 1 WHERE name = ?', ['gone'])), 0)
      assert.deepEqual(await store.read.all('SELECT name FROM repositories ORDER BY name LIMIT ?', [5]), [{ name: 'kept' }])
    })
    await t.test('codes: a unique index, a check, a trigger, a table that is not there', async () => {
      assert.equal(
        await code(store.write((sql) => sql.run('INSERT INTO repositories(name, created_at) VALUES (?, ?)', ['kept', 1]))),
        'DB_CONSTRAINT',
      )
      assert.equal(
        await code(store.write((sql) => sql.run(`INSERT INTO instance(id, name, created_at) VALUES (2, 'x', 1)`))),
        'DB_CONSTRAINT',
      )
      await store.write(async (sql) => {
        await sql.run(`INSERT INTO instance(id, name, created_at) VALUES (1, 'x', 1)`)
        await sql.run(`INSERT INTO blobs(digest, inc, size, epoch) VALUES ('b', 'inc', 1, 1)`)
      })
      assert.equal(
        await code(store.write((sql) => sql.run(`INSERT INTO trash(inc, digest, epoch) VALUES ('inc', 'b', 1)`))),
        'DB_CONSTRAINT',
      )
      assert.equal(await code(store.read.all('SELECT * FROM nowhere')), 'DB_ERROR')
      assert.equal(await code(store.read.all('SELECT ?', ['a\u0000b'])), 'DB_ERROR')
    })
    await t.test('writes at once are serial: no update is lost', async () => {
      await Promise.all(
        Array.from({ length: 24 }, () =>
          store.write(async (sql) => {
            const [row] = await sql.all<{ n: number }>('SELECT reap_seq AS n FROM instance')
            await sql.run('UPDATE instance SET reap_seq = ?', [(row?.n ?? 0) + 1])
          }),
        ),
      )
      assert.deepEqual(await store.read.all('SELECT reap_seq AS n FROM instance'), [{ n: 24 }])
    })
    await t.test('the journal of works at once is one gap-free chain; a work that fails leaves no entry', async () => {
      const entry = (id: string) => ({ id, at: 1, type: 'tested', actor: 'x', detail: '{}' })
      const works = await Promise.allSettled(
        Array.from({ length: 30 }, (_, index) =>
          store.write(async (_sql, append) => {
            append(entry(`a${index}`))
            append(entry(`b${index}`))
            if (index % 3 === 0) throw new Error('mine')
          }),
        ),
      )
      assert.equal(works.filter((work) => work.status === 'fulfilled').length, 20)
      const report = await verifyJournal(store.read, sha256)
      assert.deepEqual([report.ok, report.entries, report.lastSeq, report.problems], [true, 40, 40, []])
      const ids = await store.read.all<{ id: string }>('SELECT id FROM journal ORDER BY seq')
      for (let at = 0; at < ids.length; at += 2)
        assert.equal(ids[at]?.id.slice(1), ids[at + 1]?.id.slice(1), 'of one work, side by side')
      await store.write((sql) => sql.run(`UPDATE journal SET detail = '{"n":1}' WHERE seq = 7`))
      assert.deepEqual((await verifyJournal(store.read, sha256)).problems, [{ seq: 7, what: 'the entry was edited' }])
    })
    await t.test('an entry that cannot be written takes its work with it, and no other', async () => {
      const entry = (id: string) => ({ id, at: 1, type: 'tested', actor: 'x', detail: '{}' })
      const works = ['once', 'once', 'twice'].map((id, index) =>
        code(
          store.write(async (sql, append) => {
            await sql.run('INSERT INTO repositories(name, created_at) VALUES (?, 1)', [`entry-${index}`])
            append(entry(id))
          }),
        ),
      )
      assert.deepEqual((await Promise.all(works)).toSorted(), ['DB_CONSTRAINT', 'fine', 'fine'])
      const alone = store.write(async (sql, append) => {
        await sql.run(`INSERT INTO repositories(name, created_at) VALUES ('entry-alone', 1)`)
        append(entry('twice'))
      })
      assert.equal(await code(alone), 'DB_CONSTRAINT')
      const rows = await store.read.all(`SELECT name FROM repositories WHERE name LIKE 'entry-%'`)
      assert.equal(rows.length, 2)
      assert.equal((await store.read.all(`SELECT id FROM journal WHERE id IN ('once', 'twice')`)).length, 2)
    })
    await store.close()
  })
