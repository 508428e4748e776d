// What `mcr why` asks the journal, which may have millions of entries, on the one thread of its process: by an index, a little at a time.
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, test } from 'node:test'
import type { AdminContext, OperationCall } from '../../lib/admin/operation.ts'
import { usageOperations } from '../../lib/admin/usage.ts'
import { change } from '../../lib/journal/change.ts'
import type { Sql } from '../../lib/metadata/sql.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-why-'))
const database = await openDatabaseFile(join(scratch, 'mcr.db'), {
  onFatal: (error) => {
    throw error
  },
})
after(async () => {
  await database.close()
  rmSync(scratch, { recursive: true, force: true })
})
await migrate(
  database,
  Object.fromEntries(
    readdirSync('migrations').map((file) => [basename(file, '.sql'), readFileSync(`migrations/${file}`, 'utf8')]),
  ),
)

let now = 0
const ctx = { metadata: database, now: () => ++now, newId: () => crypto.randomUUID() }
const gc = { principal: { subject: 'system:gc' } }
const digestOf = (n: number) => `sha256:${n.toString(16).padStart(64, '0')}`

/** Asks as the operation does, and looks at how the database goes about each of its statements. */
async function why(digest: string): Promise<{ answer: Record<string, unknown>; plans: string[] }> {
  const plans: string[] = []
  const read: Sql = {
    ...database.read,
    async all(text, args) {
      if (text.includes('journal'))
        plans.push(
          ...(await database.read.all<{ detail: string }>(`EXPLAIN QUERY PLAN ${text}`, args)).map(({ detail }) => detail),
        )
      return await database.read.all(text, args)
    },
  }
  const operation = usageOperations.find(({ method }) => method.name === 'ExplainDigest')
  const asked = { ...ctx, metadata: { ...database, read } } as unknown as AdminContext
  const answer = await operation?.run?.({ digest } as never, {} as OperationCall, asked)
  return { answer: answer as Record<string, unknown>, plans }
}

test('why reads no journal from end to end, and finds the newest of what it looks for', async () => {
  await change(ctx, gc, async (sql, append) => {
    await sql.run('INSERT INTO blobs(digest, inc, size, epoch) VALUES (?, ?, 1, 0)', [digestOf(1), 'inc'])
    append({ type: 'blob_uploaded', repository: 'a', digest: digestOf(1) })
    for (let n = 0; n < 5_000; n++) append({ type: 'blob_uploaded', repository: 'a', digest: digestOf(100_000 + n) })
    append({ type: 'blobs_collected', detail: { gc_id: 'the first', digests: [digestOf(2)] } })
    append({ type: 'blobs_collected', detail: { gc_id: 'the second', digests: [digestOf(3), digestOf(2)] } })
    append({ type: 'manifest_collected', repository: 'a', digest: digestOf(4), detail: { gc_id: 'the third', why: 'deleted' } })
    for (let n = 0; n < 450; n++)
      append({ type: 'blobs_collected', detail: { gc_id: 'another', digests: [digestOf(1_000 + n)] } })
  })
  // What retention does to an entry.
  await database.write((sql) => sql.run('UPDATE journal SET detail = NULL WHERE seq = (SELECT max(seq) FROM journal)'))
  const cases: [digest: number, state: string, by: string | undefined][] = [
    [1, 'stored', 'system:gc'],
    [2, 'unknown', 'system:gc, run the second'],
    [4, 'collected', 'system:gc, run the third'],
    [5, 'unknown', undefined],
  ]
  for (const [n, state, by] of cases) {
    const { answer, plans } = await why(digestOf(n))
    assert.deepEqual([answer.state, answer.freedBy], [state, by], digestOf(n))
    const looks = plans.filter((detail) => /\b(j|journal)\b/.test(detail))
    assert.ok(looks.length >= 2, plans.join('\n'))
    for (const detail of looks)
      assert.match(detail, /^SEARCH (j|journal) USING INDEX journal_(digest|type) \((digest=\?|type=\? AND seq>\? AND seq<\?)\)/)
  }
})
