import assert from 'node:assert/strict'
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import type { Sql } from '../../lib/metadata/sql.ts'
import { storedBytes, usageByRepository } from '../../lib/metadata/usage.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'

const migrations = Object.fromEntries(
  globSync('migrations/*.sql').map((file) => [basename(file, '.sql'), readFileSync(file, 'utf8')]),
)

test('the space of every repository is counted some rows at a time, with turns for requests in between, and to the byte', async (t) => {
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-usage-'))
  const database = await openDatabaseFile(join(scratch, 'mcr.db'), {
    onFatal: (error) => {
      throw error
    },
  })
  t.after(async () => {
    await database.close()
    rmSync(scratch, { recursive: true, force: true })
  })
  await migrate(database, migrations)
  await database.write(async (sql) => {
    await sql.run(`INSERT INTO instance(id, name, created_at) VALUES (1, 'usage', 0)`)
    const numbers = (to: number) => `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${to})`
    // Repository 7 is deleted, 8 holds nothing; of the rest every blob is in the repositories whose number divides it, some links are hidden.
    await sql.run(
      `INSERT INTO repositories(id, name, visible, created_at, deleted_epoch) ${numbers(8)} SELECT i, 'r' || i, 1, 0, iif(i = 7, 1, NULL) FROM n`,
    )
    await sql.run(
      `INSERT INTO blobs(digest, inc, size, epoch) ${numbers(2000)} SELECT printf('sha256:%064x', i * 7919), 'i' || i, i, 1 FROM n`,
    )
    await sql.run(
      `INSERT INTO repo_blobs(repo_id, digest, epoch, hidden_epoch) SELECT r.id, b.digest, 1, iif(b.size % 11 = r.id, 1, NULL)
       FROM repositories r JOIN blobs b ON b.size % r.id = 0 WHERE r.id BETWEEN 2 AND 7`,
    )
  })
  // By another way: which repositories are left to each number.
  const holders = (size: number) => [2, 3, 4, 5, 6].filter((id) => size % id === 0 && size % 11 !== id)
  const numbers = Array.from({ length: 2000 }, (_, index) => index + 1)
  const sum = (sizes: number[]) => sizes.reduce((total, size) => total + size, 0)
  const expected = [2, 3, 4, 5, 6]
    .map((id) => ({
      name: `r${id}`,
      size: sum(numbers.filter((size) => holders(size).includes(id))),
      own: sum(numbers.filter((size) => holders(size).length === 1 && holders(size)[0] === id)),
    }))
    .sort((a, b) => b.own - a.own || (a.name < b.name ? -1 : 1))

  let turns = 0
  const turn = setInterval(() => turns++, 0)
  t.after(() => clearInterval(turn))
  const turnsAt: number[] = []
  const counted: Sql = {
    ...database.read,
    all: async (text, args) => {
      turnsAt.push(turns)
      return await database.read.all(text, args)
    },
  }
  assert.deepEqual(await usageByRepository(counted, 100), expected)
  const [links] = await database.read.all<{ n: number }>('SELECT count(*) AS n FROM repo_blobs')
  assert.ok(turnsAt.length >= (links?.n ?? 0) / 100, `${turnsAt.length} statements for ${links?.n} links`)
  assert.equal(await storedBytes(counted, 100), sum(numbers))
  assert.ok((turnsAt.at(-1) as number) >= turnsAt.length - 3, `${turnsAt.at(-1)} turns beside ${turnsAt.length} statements`)
})
