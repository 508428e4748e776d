// All of the long tests by turns until the time is over: `npm run torture -- --hours 8`. Each turn has seeds of its own.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { createRandom } from '../workload/random.ts'

const { values } = parseArgs({ options: { hours: { type: 'string', default: '1' }, seed: { type: 'string' } } })
const hours = Number(values.hours)
if (!(hours > 0)) throw new Error('--hours must be a number above 0')
const seed = Number(values.seed ?? Math.floor(Math.random() * 1_000_000))
const random = createRandom(seed)
const root = new URL('../../', import.meta.url).pathname

interface Part {
  name: string
  args: () => string[]
  runs: number
  failed: number
}
const part = (name: string, args: () => string[] = () => []): Part => ({ name, args, runs: 0, failed: 0 })
const seeded = () => ['--seed', String(random.between(1, 1_000_000))]
/** Shortest first, so that an hour has seen each of them. */
const parts = [
  part('uploads', () => ['--uploads', '2000', ...seeded()]),
  part('crash', () => ['--kills', '200', ...seeded()]),
  part('power', () => ['--cuts', '30', '--on', 'ext4,xfs,split,split-xfs', ...seeded()]),
  part('crashpoints', () => ['--every', '7', '--from', String(random.between(1, 7)), ...seeded()]),
  part('interleave', () => ['--every', '3', '--from', String(random.between(0, 2))]),
  part('linearize', seeded),
  part('model'),
  part('mutants'),
]

const started = Date.now()
const until = started + hours * 3_600_000
let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    interrupted = true
  })
console.log(`torture: --hours ${hours} --seed ${seed}`)
await run(['esbuild.config.mjs'])
for (let turn = 0; Date.now() < until && !interrupted; turn++) {
  const next = parts[turn % parts.length] as Part
  const args = next.args()
  console.log(`\n── turn ${turn + 1}, ${minutes(started)} min: ${next.name} ${args.join(' ')}`)
  const status = await run([`test/${next.name}/run.ts`, ...args])
  if (interrupted) break
  next.runs++
  if (status !== 0) next.failed++
}
const failed = parts.reduce((sum, { failed: count }) => sum + count, 0)
const counts = parts.map(({ name, runs, failed: bad }) => `${name} ${runs}${bad > 0 ? ` (${bad} FAILED)` : ''}`)
console.log(`\ntorture: ${minutes(started)} min, seed ${seed}; ${counts.join(', ')}`)
console.log(failed > 0 ? `torture: FAILED, ${failed} turns; each says above where its state is` : 'torture: passed')
process.exit(failed > 0 ? 1 : interrupted ? 130 : 0)

/** A turn's time is over with its work: the last one may take longer than what is left. */
async function run(args: string[]): Promise<number | null> {
  const child = spawn(process.execPath, args, { cwd: root, stdio: 'inherit' })
  const [status] = (await once(child, 'exit')) as [number | null]
  return status
}

function minutes(since: number): number {
  return Math.round((Date.now() - since) / 60_000)
}
