import assert from 'node:assert/strict'
import { after, mock, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startJobs } from '../../runtime/jobs.ts'
import { openWorld } from '../interleave/world.ts'

const world = await openWorld()
after(() => world.close(false))

test('a job that takes longer than its lease runs in one process', async (t) => {
  // A clock 200 times as fast as time: five minutes pass while the job works.
  mock.timers.enable({ apis: ['setInterval'] })
  t.after(() => mock.timers.reset())
  const began = performance.now()
  const ctx = { ...world.ctx, now: () => Date.now() + Math.round((performance.now() - began) * 200) }
  let running = 0
  let most = 0
  const job = {
    name: 'scrub',
    everyMs: 100,
    async run() {
      most = Math.max(most, ++running)
      await sleep(1_500)
      running--
      return {}
    },
  }
  const stops = ['a', 'b', 'c'].map((holder) => startJobs([job], ctx as never, holder))
  for (let n = 0; n < 25; n++) {
    await sleep(100)
    mock.timers.tick(20_000)
  }
  await Promise.all(stops.map((stop) => stop()))
  assert.equal(most, 1)
})
