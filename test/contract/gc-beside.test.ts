// Collections that two processes have to do with, and one that is paused.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { garbageOperations } from '../../lib/admin/garbage.ts'
import type { RegistryContext } from '../../lib/context.ts'
import { askForCollection, collectGarbage, collectGarbageJob } from '../../lib/jobs/collect-garbage.ts'
import { findRun } from '../../lib/metadata/gc-runs.ts'
import { openWorld, sha256 } from '../interleave/world.ts'

const world = await openWorld()
after(() => world.close(false))
const { ctx } = world
const signal = new AbortController().signal

/** Deleted blobs of `of` that the next collection may take. */
async function deleted(of: string): Promise<void> {
  for (let n = 0; n < 20; n++) {
    const digest = sha256(`${of} ${n}`)
    await world.ask(ctx, 'POST', `/v2/two/a/blobs/uploads/?digest=${digest}`, `${of} ${n}`)
    await world.ask(ctx, 'DELETE', `/v2/two/a/blobs/${digest}`)
  }
  await world.pass(20)
}

/** The context, where something is done before a write that `when` picks, by its number from 1 and its text. */
function before(when: (n: number, text: string) => boolean, meanwhile: () => Promise<unknown>): RegistryContext {
  let n = 0
  let done = false
  const write = async (work: never) => {
    if (!done && when(++n, String(work))) {
      done = true
      await meanwhile()
    }
    return await ctx.metadata.write(work)
  }
  return { ...ctx, metadata: Object.assign(Object.create(ctx.metadata), { write }) }
}
const finds = (_n: number, text: string) => text.includes('addFindings')

test('a dry run that another process takes over counts what its findings are', async () => {
  await deleted('foreseen')
  const id = (await askForCollection(ctx, 'test', { dryRun: true, now: true })) as string
  let taken: Promise<unknown> | undefined
  // Stands still for so long, about to note what it found, that another process goes on with the run, up to the same place.
  const paused = before(finds, async () => {
    await ctx.metadata.write((sql) => sql.run(`UPDATE gc_runs SET beat_at = beat_at - 10000`))
    await new Promise<void>((goOn) => {
      const other = before(finds, async () => {
        goOn()
        await sleep(100)
      })
      taken = collectGarbage(other as never, id, 'other', signal, 'ends')
    })
  })
  await collectGarbage(paused as never, id, 'first', signal, 'ends')
  await taken
  const run = await findRun(ctx.metadata.read, id)
  const [found] = await ctx.metadata.read.all<{ links: number; blobs: number }>(
    `SELECT count(*) FILTER (WHERE kind = 'link') AS links, count(*) FILTER (WHERE kind = 'blob') AS blobs FROM gc_findings WHERE run_id = ?`,
    [id],
  )
  assert.deepEqual([run?.links, run?.blobs], [20, 20])
  assert.deepEqual([found?.links, found?.blobs], [20, 20])
})

test('gc run on the host ends with the run, also where the registry takes it first', async () => {
  const operation = garbageOperations.find(({ method }) => method.name === 'RunGarbageCollection')
  let job: Promise<unknown> | undefined
  const takes = (_n: number, text: string) => text.includes('takeRun')
  const local = before(takes, async () => {
    job = collectGarbageJob({ intervalMs: 0 }).run(ctx as never, signal)
    await sleep(20)
  })
  const answer = (await operation?.run?.(
    { dryRun: false, now: true, full: false, repository: '' } as never,
    { principal: { subject: 'local:0' }, signal } as never,
    { ...local, collector: { blobs: ctx.blobs } } as never,
  )) as { run: { completedAt?: unknown } }
  assert.ok(job, 'the job took it')
  await job
  assert.ok(answer.run.completedAt)
})

test('nothing goes after pause has answered', async () => {
  await deleted('paused')
  const count = async () =>
    (await ctx.metadata.read.all(`SELECT (SELECT count(*) FROM repo_blobs) AS links, (SELECT count(*) FROM blobs) AS blobs`))[0]
  const stop = new AbortController()
  let answered: unknown
  const id = (await askForCollection(ctx, 'test', { dryRun: false, now: true })) as string
  // The batch's transaction waits behind the one that pauses.
  const own = before(
    (n) => n === 10,
    async () => {
      assert.equal((await world.ask(ctx, 'POST', '/v1/gc/pause', '{}', 'application/json')).status, 200)
      answered = await count()
      setTimeout(() => stop.abort(), 300)
    },
  )
  await collectGarbage(own as never, id, 'x', stop.signal, 'ends')
  assert.ok(answered, 'there was such a batch')
  assert.deepEqual(await count(), answered)
})
