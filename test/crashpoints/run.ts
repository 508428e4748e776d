// Every call that changes the disk, of every kind of request: killed before it, and killed with the power gone as well.
import { join } from 'node:path'
import { withOwnMounts } from '../power/namespace.ts'
import { checkAnswers } from '../workload/check-answers.ts'
import { checkJournal } from '../workload/check-journal.ts'
import { checkStorage } from '../workload/check-storage.ts'
import { ageUploads, startCollecting } from '../workload/collect.ts'
import { type Member, startFleet } from '../workload/fleet.ts'
import { createHistory } from '../workload/history.ts'
import { createRandom, sha256 } from '../workload/random.ts'
import { type Run, runTest } from '../workload/run.ts'
import { killCommands } from './commands.ts'
import { killFirstStarts } from './first-start.ts'
import { checkOrder } from './order.ts'
import { makePlace } from './place.ts'
import { Died, type Kit, type Scenario, scenarios } from './scenarios.ts'
import { attach, changes } from './strace.ts'

await withOwnMounts()
await runTest('crashpoints', { every: 1, from: 1, kinds: 'kill,power', only: '' }, async (run) => {
  const summaries: string[] = []
  for (const kind of run.words.kinds?.split(',') ?? []) {
    if (kind !== 'kill' && kind !== 'power') throw new Error(`--kinds ${kind}: kill, power`)
    if (!run.interrupted() && run.findings.length === 0) summaries.push(await killEverywhere(run, kind))
  }
  return { summary: summaries.join('; ') }
})

async function killEverywhere(run: Run, kind: 'kill' | 'power'): Promise<string> {
  const { every = 1, from = 1 } = run.numbers
  const folder = join(run.folder, kind)
  const disk = makePlace(folder, run, kind)
  const root = join(folder, disk ? 'disk/data' : 'data')
  const place = { root, database: join(root, 'mcr.db'), logs: join(folder, 'logs') }
  const fleet = await startFleet(place, ['all'], { UV_THREADPOOL_SIZE: '1', MCR_LIMITS_UPLOAD_IDLE: '1d' })
  run.onEnd(fleet.killAll)
  const member = fleet.members[0] as Member
  const history = createHistory()
  const collecting = startCollecting(fleet, createRandom(run.seed), run.finding)
  run.onEnd(collecting.kill)
  const order = await checkOrder(fleet, folder, run.finding)
  const points = new Map<string, number>()
  let made = 0

  /** Shape: whether the process was killed at that call, or the scenario ended before. */
  async function killAt(scenario: Scenario, call: string, nth: number): Promise<boolean> {
    // Of this member: who asks the fleet waits for a member that is up, and the one there is may die between two questions.
    const client: Kit['client'] = (method, path, asked) => fleet.probe(method, path, { ...asked, of: member })
    const kit: Kit = { id: `${kind}-${made++}`, client, history, blobs: new Map() }
    await collecting.idle()
    await scenario.before?.(kit)
    const inject = `inject=${call}:signal=SIGKILL:when=${nth}`
    fleet.expectKill(member)
    const trace = await attach(member.child?.pid as number, ['-o', '/dev/null', '-e', `trace=${call}`, '-e', inject])
    let died = false
    try {
      await scenario.act(kit)
    } catch (error) {
      if (!(error instanceof Died)) throw error
      died = true
    }
    await trace.end(died ? 'killed' : 'alive')
    if (!died) return false
    await fleet.kill(member)
    if (disk) {
      disk.cut()
      disk.remount()
    }
    checkStorage(place, run.finding)
    await fleet.start(member)
    for (const [path, digest] of kit.blobs) {
      const blob = await fleet.probe('GET', path)
      if (blob.status !== 200 || sha256(blob.body) !== digest)
        run.finding(`${path} was acknowledged, and GET answers ${blob.status}`)
    }
    await checkAnswers(fleet.probe, history, run.finding, 'touched')
    return true
  }

  for (const scenario of scenarios.filter(({ name }) => name.includes(run.words.only ?? ''))) {
    for (const call of changes)
      for (let nth = from; !run.interrupted() && run.findings.length === 0; nth += every) {
        const before = run.findings.length
        if (!(await killAt(scenario, call, nth))) break
        points.set(scenario.name, (points.get(scenario.name) ?? 0) + 1)
        if (run.findings.length > before) run.finding(`  that was ${kind} at ${call} number ${nth} of: ${scenario.name}`)
        run.progress(`${kind}: ${scenario.name}, ${call} ${nth}`)
      }
    if (run.interrupted()) break
    ageUploads(place.database)
    await collecting.collectAll()
    const { leakedFiles, uploads } = checkStorage(place, run.finding)
    if (leakedFiles.length > 0 || uploads > 0) run.finding(`left after ${scenario.name}: ${uploads} uploads, ${leakedFiles}`)
    await checkAnswers(fleet.probe, history, run.finding, 'everything')
  }
  if ('snapshot, restore'.includes(run.words.only ?? '') && run.findings.length === 0 && !run.interrupted())
    points.set(disk ? 'restore' : 'snapshot, restore', await killCommands(folder, run, kind))
  if ('first start'.includes(run.words.only ?? '') && run.findings.length === 0 && !run.interrupted())
    points.set('first start', await killFirstStarts(folder, run, kind))
  await checkJournal(fleet, run.finding)
  await fleet.killAll()
  for (const surprise of fleet.surprises) run.finding(surprise)
  const counts = [...points].map(([name, count]) => `${name} ${count}`)
  return `${kind}: ${[...points.values()].reduce((sum, count) => sum + count, 0)} points (${counts.join(', ')}), ${run.findings.length} lost, dangling or leaked; order ${order}`
}
