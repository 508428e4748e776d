// Runs of garbage collection: what a dry run weighs, when the next one is due, and what becomes of one whose process is told to stop.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { admin } from '../matrix/columns.ts'
import { sha256 } from '../support/oci.ts'
import { mcrCommand, password, startRegistry } from '../support/process.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry({ MCR_STORAGE_GC_INTERVAL: '1h' }, ['collect-garbage'])

interface Run {
  id: string
  uploads_expired: number
  files_removed: number
  file_bytes_freed: number
  phase: string
  error: string
}
interface Status {
  running: boolean
  last_run: Run
}
const status = async () => (await admin(registry, 'GET', '/v1/gc/status')) as unknown as Status
async function until(ended: (status: Status) => boolean, look: () => Promise<Status> = status): Promise<Run> {
  for (let wait = 0; wait < 600; wait++) {
    const now = await look()
    if (!now.running && ended(now)) return now.last_run
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('the collection did not end')
}
async function collect(options: object): Promise<Run> {
  const { id } = (await admin(registry, 'POST', '/v1/gc', options)) as unknown as { id: string }
  return await until(({ last_run: run }) => run.id === id)
}

test('a dry run weighs the uploads that would expire, also while collection is paused', async () => {
  for (const bytes of ['one segment', 'a longer segment']) {
    const begun = await registry.fetch('POST', '/v2/dry/uploads/blobs/uploads/')
    const location = begun.headers.get('location') as string
    assert.equal((await registry.fetch('PATCH', location, { body: bytes })).status, 202)
  }
  await registry.sql('UPDATE uploads SET touched_at = 1')
  await registry.sql('UPDATE instance SET epoch = epoch + 3')
  await admin(registry, 'POST', '/v1/gc/pause', {})
  const foreseen = await collect({ dry_run: true })
  await admin(registry, 'POST', '/v1/gc/resume', {})
  const run = await collect({})
  const told = ({ uploads_expired, files_removed, file_bytes_freed, error }: Run) =>
    [uploads_expired, files_removed, file_bytes_freed, error].join()
  assert.equal(told(run), `2,2,${'one segmenta longer segment'.length},`)
  assert.equal(told(foreseen), told(run))
})

test('the next collection is due after the last one of everything, whatever dry runs and runs of one repository came between', async () => {
  const hours = (count: number) => Date.now() - count * 3_600_000
  const add = (id: string, at: number, dry: number, repository: number | null) =>
    registry.sql(
      `INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window, repo_id, state) VALUES (?, 'collect', ?, 'test', ?, 0, ?, 'done')`,
      [id, at, dry, repository],
    )
  await add('dry', hours(0), 1, null)
  await add('one', hours(0), 0, 1)
  await registry.sql(`UPDATE gc_runs SET asked_at = ? WHERE id NOT IN ('dry', 'one')`, [hours(2)])
  const due = await until(({ last_run: run }) => !['dry', 'one'].includes(run.id))
  const [row] = await registry.database.read.all<{ by: string }>(`SELECT asked_by AS by FROM gc_runs WHERE id = ?`, [due.id])
  assert.equal(row?.by, 'system:collect-garbage')
})

/** A registry of its own with dead blobs of that many texts. */
async function withDead(t: TestContext, env: Record<string, string>, count: number) {
  const one = await startRegistry({ env })
  t.after(() => one.remove())
  const ask = async (method: string, path: string, body?: string) => {
    const headers = { authorization: `Basic ${btoa(`admin:${password}`)}`, 'content-type': 'application/json' }
    const response = await fetch(`${one.url}${path}`, { method, body, headers })
    return response.status === 201 ? {} : ((await response.json()) as unknown)
  }
  for (let blob = 0; blob < count; blob++) {
    const text = `dead ${blob}`
    await ask('POST', `/v2/dead/app/blobs/uploads/?digest=${sha256(text)}`, text)
  }
  const database = await openDatabaseFile(join(one.dir, 'mcr.db'), { onFatal: () => undefined })
  t.after(() => database.close())
  await database.write((sql) => sql.run('UPDATE instance SET epoch = epoch + 3'))
  return { one, ask, database }
}

test('a run whose process is told to stop is gone on with by the next one', async (t) => {
  const env = { MCR_STORAGE_GC_INTERVAL: '0s', MCR_STORAGE_GC_RATE: '2' }
  const { one, ask, database } = await withDead(t, env, 20)
  const { id } = (await ask('POST', '/v1/gc', '{}')) as { id: string }
  const look = async () => (await ask('GET', '/v1/gc/status')) as Status
  for (let wait = 0; wait < 200 && (await look()).last_run.phase !== 'links'; wait++)
    await new Promise((resolve) => setTimeout(resolve, 20))
  await one.stop()
  assert.deepEqual(await database.read.all('SELECT id, state FROM gc_runs'), [{ id, state: 'asked' }])
  env.MCR_STORAGE_GC_RATE = '0'
  await one.restart()
  assert.equal((await until(({ last_run: run }) => run.id === id, look)).error, '')
})

test('a run by the command on the host ends what was left, and ends with 1 where something could not be collected', async (t) => {
  const { one, database } = await withDead(t, { MCR_STORAGE_GC_INTERVAL: '0s' }, 2)
  await one.stop()
  const run = () => {
    const [file, ...first] = mcrCommand()
    return spawnSync(file, [...first, 'gc', 'run'], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, MCR_STORAGE_ROOT: one.dir },
    })
  }
  const broken = sha256('dead 0')
  await database.write((sql) =>
    sql.run(
      `CREATE TRIGGER broken BEFORE DELETE ON repo_blobs WHEN OLD.digest = '${broken}' BEGIN SELECT RAISE(ABORT, 'broken'); END`,
    ),
  )
  const failed = run()
  assert.equal(failed.status, 1)
  assert.match(failed.stdout, new RegExp(`could not be collected, the first: link ${broken}`))
  await database.write((sql) => sql.run('DROP TRIGGER broken'))
  // One that a process left behind: nobody else is there to go on with it.
  await database.write((sql) =>
    sql.run(
      `INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window) VALUES ('left', 'collect', ?, 'test', 0, 0)`,
      [Date.now()],
    ),
  )
  assert.equal(run().status, 0)
  const states = await database.read.all<{ state: string }>('SELECT state FROM gc_runs')
  assert.deepEqual(states, [{ state: 'done' }, { state: 'done' }, { state: 'done' }])
})
