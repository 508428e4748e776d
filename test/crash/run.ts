// SIGKILL, and now and then SIGSTOP, of processes that share one data directory, under pushes, deletes and garbage collection without grace.
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { checkAnswers } from '../workload/check-answers.ts'
import { checkJournal } from '../workload/check-journal.ts'
import { checkStorage } from '../workload/check-storage.ts'
import { startClients } from '../workload/clients.ts'
import { ageUploads, startCollecting } from '../workload/collect.ts'
import { startFleet } from '../workload/fleet.ts'
import { createHistory } from '../workload/history.ts'
import { createRandom } from '../workload/random.ts'
import { runTest } from '../workload/run.ts'

/** Kills between two checks. */
const killsEach = 20

await runTest('crash', { kills: 1000, clients: 6, pushes: 0 }, async (run) => {
  const { kills = 0, clients: count = 0, pushes = 0 } = run.numbers
  const random = createRandom(run.seed)
  const place = { root: join(run.folder, 'data'), database: join(run.folder, 'data/mcr.db'), logs: join(run.folder, 'logs') }
  const fleet = await startFleet(place, ['all', 'all', 'push'])
  run.onEnd(fleet.killAll)
  const history = createHistory()
  const clients = startClients({ seed: run.seed, count, client: fleet.client, history, finding: run.finding })
  const collecting = startCollecting(fleet, random, run.finding)
  run.onEnd(collecting.kill)
  const hashed = new Set<string>()
  const done = { kills: 0, pauses: 0, checks: 0, images: 0, blobs: 0, leaked: 0 }
  let journal = { entries: 0, collections: 0, collectedBlobs: 0, collectedBytes: 0 }

  /** Everything quiet: nothing lost, nothing dangling; after a collection nothing left over. */
  async function check(which: 'touched' | 'everything') {
    await clients.hold()
    await collecting.hold()
    await Promise.all(fleet.members.filter(({ ready }) => !ready).map(fleet.start))
    fleet.passTime()
    const read = await checkAnswers(fleet.client, history, run.finding, which, () => random.chance(0.03))
    done.images += read.images
    done.blobs += read.blobs
    await collecting.collectAll()
    const report = checkStorage(place, run.finding, hashed)
    done.leaked += report.leaked
    if (report.leaked > 0 || report.leakedFiles.length > 0) run.finding(`left on disk after collection: ${report.leakedFiles}`)
    if (which === 'everything') journal = await checkJournal(fleet, run.finding)
    done.checks++
  }

  const enough = () => done.kills >= kills && history.counts.pushes >= pushes
  while (!enough() && !run.interrupted() && run.findings.length === 0) {
    clients.go()
    collecting.go()
    for (let each = 0; each < killsEach && !(done.kills >= kills && pushes === 0); each++) {
      await clients.after(random.between(1, 60))
      const victim = random.pick(fleet.members)
      const stopped = random.chance(0.1)
      if (stopped) {
        // Stopped anywhere, also with the write lock held; it wakes into a world that went on without it.
        fleet.pause(victim)
        await sleep(random.between(20, 1_500))
        fleet.passTime()
        done.pauses++
        if (random.chance(0.7)) {
          fleet.resume(victim)
          continue
        }
      }
      if (random.chance(0.1)) {
        await fleet.killAll()
        done.kills += fleet.members.length
      } else if (!stopped && random.chance(0.2) && collecting.kill()) {
        done.kills++
        fleet.passTime()
        continue
      } else {
        await fleet.kill(victim)
        done.kills++
      }
      fleet.passTime()
      const dead = fleet.members.filter(({ ready }) => !ready)
      const restart = Promise.all(dead.map(fleet.start))
      // Now and then the next kill meets them while they start.
      if (random.chance(0.8)) await restart
      else restart.catch((error) => run.finding(`${error}`))
    }
    await check('touched')
    run.progress(`${done.kills} kills, ${history.counts.pushes} pushes acknowledged, ${collecting.asked} collections asked for`)
  }
  await check('everything')
  ageUploads(place.database)
  await check('everything')
  await clients.end()
  const { counts } = history
  return {
    history,
    fleet,
    summary:
      `${done.kills} kills, ${done.pauses} pauses; acknowledged: ${counts.pushes} pushes, ${counts.tagMoves} tag moves, ${counts.deletes} deletes` +
      ` (${counts.unknown} without an answer); ${journal.collections} collections took ${journal.collectedBlobs} blobs, ${journal.collectedBytes} bytes; ${done.checks} checks read` +
      ` ${done.images} images and ${done.blobs} blobs, ${journal.entries} journal entries; ${run.findings.length} lost or dangling, ${done.leaked} bytes leaked`,
  }
})
