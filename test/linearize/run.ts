// Tags as linearizable registers, over several processes that are killed and stopped: `--seed S --ops N --clients C --processes P`.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { check } from './checker.ts'
import { type Load, missing, prepare, run, type TagOperation } from './clients.ts'
import { startCluster } from './cluster.ts'
import { step } from './register.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1_000_000)) },
    ops: { type: 'string', default: '50000' },
    clients: { type: 'string', default: '8' },
    processes: { type: 'string', default: '4' },
    /** ms between two disturbances; 0: none */
    disturb: { type: 'string', default: '1500' },
  },
})

/** Numbers that look random and are the same for the same seed (mulberry32). */
function random(state: number): () => number {
  let at = state
  return () => {
    at = (at + 0x6d2b79f5) | 0
    let value = Math.imul(at ^ (at >>> 15), 1 | at)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 4_294_967_296
  }
}

const seed = Number(values.seed)
const load: Load = {
  clients: Number(values.clients),
  members: Number(values.processes),
  operations: Number(values.ops),
  repositories: 4,
  tags: 10,
  random: random(seed),
}
console.log(`linearize: seed ${seed}, ${load.operations} operations, ${load.clients} clients, ${load.members} processes`)
const folder = mkdtempSync(join(tmpdir(), 'mcr-linearize-'))
process.once('exit', (code) => {
  if (code !== 0) console.log(`linearize: kept in ${folder}`)
})
const cluster = await startCluster(load.members, join(folder, 'data'))
const counts = { kills: 0, pauses: 0 }
const nemesis = random(seed + 1)
const everyMs = Number(values.disturb)
const disturb = async (signal: AbortSignal) => {
  while (everyMs > 0 && !signal.aborted) {
    await sleep(everyMs * (0.5 + nemesis()), undefined, { signal }).catch(() => undefined)
    if (signal.aborted) return
    const member = Math.floor(nemesis() * load.members)
    if (nemesis() < 0.5) {
      counts.kills++
      await cluster.kill(member)
    } else {
      counts.pauses++
      await cluster.pause(member, 100 + nemesis() * 1_500)
    }
  }
}

const started = performance.now()
let wrong: string[] = []
let operations: TagOperation[] = []
try {
  await prepare(cluster, load)
  const history = await run(cluster, load, disturb)
  operations = history.operations
  const ranMs = performance.now() - started
  const lost = await missing(cluster, history)
  const registers = Map.groupBy(operations, ({ register }) => register)
  wrong = [...history.strange, ...lost.map((one) => `acknowledged and lost: ${one}`)]
  const checking = performance.now()
  for (const [register, own] of registers) {
    const stuck = check(own, null, step)
    if (stuck)
      wrong.push(`${register} is not linearizable: ${stuck.placed} of ${own.length} placed, then ${JSON.stringify(stuck.stuck)}`)
  }
  console.log(
    `${operations.length} operations on ${registers.size} tags, ${history.unknown} without an answer, ${history.refused} refused, ${counts.kills} kills, ` +
      `${counts.pauses} pauses; ${history.acknowledged.length} acknowledged manifests, ${lost.length} lost; ran ${Math.round(ranMs / 1000)} s, checked in ${Math.round(performance.now() - checking)} ms`,
  )
} finally {
  await cluster.stop()
}
for (const line of wrong.slice(0, 20)) console.log(`    ${line}`)
if (wrong.length > 0) {
  writeFileSync(join(folder, 'history.jsonl'), operations.map((operation) => `${JSON.stringify(operation)}\n`).join(''))
  console.log(`linearize: ${wrong.length} anomalies; the data and history.jsonl are kept`)
} else {
  rmSync(folder, { recursive: true, force: true })
  console.log('linearize: every tag is a linearizable register, and what was acknowledged is there')
}
process.exitCode = wrong.length > 0 ? 1 : 0
