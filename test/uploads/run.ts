// Chaotic uploads over processes that are killed and stopped: never a 201 for bytes that do not have the digest.
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { checkStorage } from '../workload/check-storage.ts'
import { ageUploads, startCollecting } from '../workload/collect.ts'
import { startFleet } from '../workload/fleet.ts'
import { createRandom } from '../workload/random.ts'
import { type Run, runTest } from '../workload/run.ts'
import { upload } from './upload.ts'

await runTest('uploads', { uploads: 10_000, clients: 8, killEach: 100 }, async (run) => {
  const { uploads = 0, clients = 0, killEach = 0 } = run.numbers
  const random = createRandom(run.seed)
  const place = { root: join(run.folder, 'data'), database: join(run.folder, 'data/mcr.db'), logs: join(run.folder, 'logs') }
  const fleet = await startFleet(place, ['all', 'all', 'push'], { MCR_LIMITS_UPLOAD_IDLE: '1h' })
  run.onEnd(fleet.killAll)
  const counts = { created: 0, refused: 0, 'given up': 0 }
  const done = { uploads: 0, kills: 0, pauses: 0 }
  const promised = new Set<string>()
  let next = 0
  const going = () => next < uploads && !run.interrupted() && run.findings.length === 0

  const clientLoop = async (client: number) => {
    const own = createRandom(run.seed * 1000 + client)
    while (going()) {
      const repository = `chaos/${own.between(0, 3)}`
      const { ending, digest } = await upload(fleet.client, own, run.finding, repository, `upload ${run.seed} ${next++}`)
      counts[ending]++
      if (digest) promised.add(`${repository} ${digest}`)
      done.uploads++
      run.progress(`${done.uploads} uploads, ${done.kills} kills`)
    }
  }
  const killLoop = async () => {
    for (let at = 0; going(); ) {
      if (done.uploads < at) {
        await sleep(20)
        continue
      }
      at = done.uploads + random.between(1, 2 * killEach)
      const victim = random.pick(fleet.members)
      if (random.chance(0.3)) {
        fleet.pause(victim)
        await sleep(random.between(10, 1_000))
        fleet.resume(victim)
        done.pauses++
        continue
      }
      await fleet.kill(victim)
      done.kills++
      await fleet.start(victim)
    }
  }
  await Promise.all([killLoop(), ...Array.from({ length: clients }, (_, client) => clientLoop(client))])
  // Requests that their clients gave up, and jobs, go on: a look at rows and then at files needs them to stand still.
  await fleet.killAll()
  checkLinks(place.database, promised, run)
  checkStorage(place, run.finding)
  await Promise.all(fleet.members.map(fleet.start))
  ageUploads(place.database)
  const collecting = startCollecting(fleet, random, run.finding)
  await collecting.collectAll()
  await collecting.end()
  const { uploads: open, leaked, leakedFiles } = checkStorage(place, run.finding)
  if (open > 0 || leakedFiles.length > 0) run.finding(`left after expiry and collection: ${open} uploads, ${leakedFiles}`)
  return {
    fleet,
    summary:
      `${done.uploads} uploads over ${done.kills} kills and ${done.pauses} pauses: ${counts.created} created and exact, ${counts.refused} refused,` +
      ` ${counts['given up']} given up; ${run.findings.length} wrong answers, ${leaked} bytes leaked`,
  }
})

/** Nothing collected meanwhile, so what was answered 201 is linked. */
function checkLinks(database: string, promised: ReadonlySet<string>, run: Run): void {
  const db = new DatabaseSync(database, { readOnly: true, timeout: 10_000 })
  const rows = db
    .prepare(`SELECT r.name || ' ' || l.digest AS link FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id`)
    .all()
  const linked = new Set(rows.map(({ link }) => link))
  for (const link of promised) if (!linked.has(link)) run.finding(`${link} was answered 201 and is not linked`)
  db.close()
}
