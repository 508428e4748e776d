// Everything that must be green; the first red phase ends it, in CI all are run and the red ones named. `npm test -- unit protocol` runs just those. After the build two phases run at
// a time, each with its output in one piece: most of them wait for other programs half of their time.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'
import { availableParallelism } from 'node:os'

const node = process.execPath
/** A test that hangs is a failure after this, not a gate that never answers. */
const bounds = ['--test', '--test-timeout=300000', '--test-force-exit']
const tests = (...patterns: string[]) => patterns.flatMap((pattern) => globSync(pattern)).sort()
/** Commands, proxies, workers and sockets: as long again as the protocol itself, so a phase of their own. */
const deployments = tests('test/protocol/{accel,activation,cli,doctor,mounts,proxy,snapshot,start,workers}.test.ts')
type Phase = [name: string, command: string, args: string[], env?: Record<string, string>]
const first: Phase[] = [
  ['lint', 'node_modules/.bin/biome', ['check', '.']],
  ['types', 'node_modules/.bin/tsc', ['-p', 'tsconfig.json']],
  ['types without Node', 'node_modules/.bin/tsc', ['-p', 'tsconfig.lib.json']],
  ['build', node, ['esbuild.config.mjs']],
]
const phases: Phase[] = [
  ['unit', node, [...bounds, ...tests('test/*.test.ts', 'test/unit/**/*.test.ts', 'test/property/**/*.test.ts')]],
  ['contract', node, [...bounds, ...tests('test/contract/**/*.test.ts')]],
  ['protocol', node, [...bounds, ...tests('test/protocol/**/*.test.ts').filter((file) => !deployments.includes(file))]],
  ['protocol, deployments', node, [...bounds, ...deployments]],
  [
    'protocol, three processes',
    node,
    [...bounds, ...tests('test/protocol/{upload,manifest,blob,listing,routing,security}.test.ts')],
    { MCR_TEST_SHAPE: 'split' },
  ],
  ['model', node, ['test/model/run.ts', '--slice']],
  ['interleave', node, ['test/interleave/run.ts', '--every', '16']],
  ['crash', node, ['test/crash/run.ts', '--kills', '6']],
  ['crashpoints', node, ['test/crashpoints/run.ts', '--every', '60', '--from', '7', '--kinds', 'kill']],
  ['power', node, ['test/power/run.ts', '--cuts', '3', '--on', 'split']],
  ['uploads', node, ['test/uploads/run.ts', '--uploads', '300', '--killEach', '60']],
  ['mutants', node, ['test/mutants/run.ts', '--slice']],
  ['linearize', node, ['test/linearize/run.ts', '--ops', '1200', '--clients', '4', '--processes', '2']],
  ['services', node, [...bounds, ...tests('test/services/*.test.ts')]],
  ['rolling', node, ['test/services/rolling.ts', '--restarts', '5']],
  ['upgrade', node, ['test/services/upgrade.ts', '--slice']],
  ['limits', node, [...bounds, ...tests('test/limits/*.test.ts')]],
  ['matrix', node, [...bounds, 'test/matrix/run.ts']],
  ['matrix, three processes', node, [...bounds, 'test/matrix/run.ts'], { MCR_TEST_SHAPE: 'split' }],
  ['schema', node, ['test/schema/run.ts'], { MCR_TEST_EXAMPLES: '20' }],
  ['conformance', node, ['test/conformance/run.ts', '--slice']],
]
/** One after the other: docker, podman and the others keep things for the whole machine. */
const clients: Phase[] = [
  ['binary', node, ['test/binary/run.ts']],
  ['e2e', node, ['test/e2e/run.ts', '--slice']],
  ['e2e, three processes', node, ['test/e2e/run.ts', '--slice'], { MCR_TEST_SHAPE: 'split' }],
  ['access', node, ['test/e2e/access.ts']],
  ['access, three processes', node, ['test/e2e/access.ts'], { MCR_TEST_SHAPE: 'split' }],
]

const wanted = process.argv.slice(2)
const isWanted = ([name, , args]: Phase) =>
  (wanted.length === 0 || wanted.includes(name.split(',')[0] as string)) && (args[0] !== '--test' || args.length > bounds.length)
const started = Date.now()
const times: string[] = []
const running = new Set<ChildProcess>()
/** How the red ones ended: said again at the end, where a log that keeps only its last part still has it. */
const red: { name: string; end: string }[] = []
const endLines = 40

for (const phase of first.filter(isWanted)) await run(phase, 'as it comes')
const queue = phases.filter(isWanted)
const serial = clients.filter(isWanted)
const output = availableParallelism() > 1 && queue.length + serial.length > 1 ? 'in one piece' : 'as it comes'
const lanes = [lane(serial).then(() => lane(queue)), ...(availableParallelism() > 1 ? [lane(queue)] : [])]
await Promise.all(lanes)
for (const { name, end } of red) if (end) console.log(`\n── ${name}, which is red, ended with\n${end}`)
console.log(
  `\n${red.length === 0 ? 'all green' : `red: ${red.map(({ name }) => name).join('; ')}`} in ${seconds(started)}: ${times.join(', ')}`,
)
process.exit(red.length === 0 ? 0 : 1)

async function lane(work: Phase[]): Promise<void> {
  for (let phase = work.shift(); phase; phase = work.shift()) await run(phase, output)
}

/** Runs a phase to its end; a red one ends everything, but in CI. */
async function run([name, command, args, env]: Phase, output: 'as it comes' | 'in one piece'): Promise<void> {
  const began = Date.now()
  if (output === 'as it comes') console.log(`\n── ${name}`)
  const child = spawn(command, args, {
    stdio: ['ignore', ...(output === 'as it comes' ? (['inherit', 'inherit'] as const) : (['pipe', 'pipe'] as const))],
    env: { ...process.env, ...env },
  })
  running.add(child)
  const pieces: Buffer[] = []
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (piece: Buffer) => pieces.push(piece))
  const [status, signal] = (await once(child, 'close')) as [number | null, string | null]
  running.delete(child)
  if (output === 'in one piece') process.stdout.write(`\n── ${name}\n${Buffer.concat(pieces)}`)
  times.push(`${name} ${seconds(began)}`)
  if (status === 0) return
  console.error(`\n${name} failed (${signal ?? `exit ${status}`})`)
  red.push({ name, end: `${Buffer.concat(pieces)}`.split('\n').slice(-endLines).join('\n') })
  if (process.env.CI) return
  for (const other of running) other.kill('SIGTERM')
  await Promise.all([...running].map((other) => once(other, 'close')))
  process.exit(1)
}

function seconds(since: number): string {
  return `${Math.round((Date.now() - since) / 1000)} s`
}
