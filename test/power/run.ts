// Power cuts: every process is stopped, its answers are read, the file systems are cut off, everything is killed and mounted again.
import { mkdirSync } from 'node:fs'
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
import { type Run, runTest } from '../workload/run.ts'
import { type FileSystem, makeDisk } from './disk.ts'
import { withOwnMounts } from './namespace.ts'

/** Where blobs and database lie. With both on one disk the database's syncs carry the blobs' names along; on two they do not. */
const layouts: Record<string, { blobs: FileSystem; database?: FileSystem }> = {
  ext4: { blobs: 'ext4' },
  xfs: { blobs: 'xfs' },
  split: { blobs: 'ext4', database: 'ext4' },
  'split-xfs': { blobs: 'xfs', database: 'ext4' },
}
/** Longer than a request, shorter than the seconds after which file systems write by themselves. */
const quietMs = 120
const collectEach = 10

await withOwnMounts()
await runTest('power', { cuts: 200, clients: 4, on: 'ext4,xfs,split' }, async (run) => {
  const summaries: string[] = []
  for (const name of run.words.on?.split(',') ?? []) {
    const layout = layouts[name]
    if (!layout) throw new Error(`--on ${name}: one of ${Object.keys(layouts)}`)
    if (!run.interrupted() && run.findings.length === 0) summaries.push(await cutOn(run, name, layout))
  }
  return { summary: summaries.join('; ') }
})

async function cutOn(run: Run, name: string, layout: { blobs: FileSystem; database?: FileSystem }): Promise<string> {
  const { cuts = 0, clients: count = 0 } = run.numbers
  const random = createRandom(run.seed)
  const folder = join(run.folder, name)
  mkdirSync(folder)
  const disks = [makeDisk(join(folder, 'blobs'), layout.blobs)]
  if (layout.database) disks.push(makeDisk(join(folder, 'database'), layout.database))
  run.onEnd(() => {
    for (const disk of disks) disk.remove()
  })
  const root = join(folder, 'blobs', 'data')
  const place = {
    root,
    database: layout.database ? join(folder, 'database', 'mcr.db') : join(root, 'mcr.db'),
    logs: join(folder, 'logs'),
  }
  const fleet = await startFleet(place, ['all', 'all'])
  run.onEnd(fleet.killAll)
  const history = createHistory()
  const clients = startClients({ seed: run.seed, count, client: fleet.client, history, finding: run.finding })
  const collecting = startCollecting(fleet, random, run.finding)
  run.onEnd(collecting.kill)
  const done = { cuts: 0, quiet: 0, leaked: 0 }

  async function cut(when: 'busy' | 'quiet') {
    if (when === 'quiet') {
      // Nothing that comes later carries the last answers' names to the disk.
      await collecting.hold()
      await clients.hold()
      await sleep(quietMs)
      done.quiet++
    }
    for (const member of fleet.members) fleet.pause(member)
    // What the processes wrote is in our sockets: it counts as answered, so it is read first.
    await sleep(30)
    fleet.gate.close()
    for (const disk of disks) disk.cut()
    await collecting.killAll()
    await fleet.killAll()
    for (const disk of disks) disk.remount()
    done.cuts++
    checkStorage(place, run.finding)
    await Promise.all(fleet.members.slice(0, random.chance(0.3) ? 2 : 1).map(fleet.start))
    await checkAnswers(fleet.probe, history, run.finding, 'touched', () => random.chance(0.1))
    fleet.gate.open()
  }
  async function collect(which: 'touched' | 'everything') {
    await clients.hold()
    await collecting.hold()
    fleet.passTime()
    await checkAnswers(fleet.probe, history, run.finding, which)
    await collecting.collectAll()
    const { leaked, leakedFiles } = checkStorage(place, run.finding)
    done.leaked += leaked
    if (leakedFiles.length > 0) run.finding(`left on disk after collection: ${leakedFiles}`)
  }

  while (done.cuts < cuts && !run.interrupted() && run.findings.length === 0) {
    clients.go()
    collecting.go()
    await clients.after(random.between(3, 40))
    await cut(random.chance(0.5) ? 'busy' : 'quiet')
    if (done.cuts % collectEach === 0) await collect('touched')
    run.progress(`${name}: ${done.cuts} cuts, ${history.counts.pushes} pushes acknowledged`)
  }
  ageUploads(place.database)
  await collect('everything')
  const journal = await checkJournal(fleet, run.finding)
  await clients.end()
  await collecting.end()
  await fleet.killAll()
  for (const surprise of fleet.surprises) run.finding(surprise)
  const { counts } = history
  return (
    `${name}: ${done.cuts} cuts (${done.quiet} quiet), acknowledged ${counts.pushes} pushes, ${counts.tagMoves} tag moves, ${counts.deletes} deletes` +
    ` (${counts.unknown} without an answer), ${journal.collections} collections, ${run.findings.length} lost or dangling, ${done.leaked} bytes leaked`
  )
}
