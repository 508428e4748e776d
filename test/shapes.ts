// The suites, unchanged, against the registry in another shape: `npm run test:shapes -- nginx caddy`, with names of suites
// behind them for some only: `-- binary protocol matrix`.
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'
import { type ShapeName, shapes } from './support/shape.ts'

const node = process.execPath
const bounds = ['--test', '--test-timeout=300000', '--test-force-exit']
const suites: Record<string, string[]> = {
  protocol: [...bounds, ...globSync('test/protocol/**/*.test.ts').sort()],
  matrix: [...bounds, 'test/matrix/run.ts'],
  conformance: ['test/conformance/run.ts'],
  e2e: ['test/e2e/run.ts'],
  access: ['test/e2e/access.ts'],
}

/** What a shape needs: how its program is built, and which file it is where that is not the build's. */
const programs: Partial<Record<ShapeName, { build: string[]; env?: Record<string, string> }>> = {
  binary: {
    build: ['deploy/build/binary.ts', `${process.platform}-${process.arch}`],
    env: { MCR_TEST_COMMAND: 'dist/mcr' },
  },
}

/**
 * Behind a proxy a few tests of raw.test.ts are those of another's parser: it refuses some bytes itself, mends others, and answers
 * expectations and bodies that nobody reads in its own way. proxy.test.ts has what can be asked of it.
 */
const withoutParser = ['request targets', 'hosts', 'framing', 'an expectation is met', 'a connection goes on'].map(
  (name) => `--test-skip-pattern=/^${name}/`,
)

const words = process.argv.slice(2)
const names = words.filter((word): word is ShapeName => Object.hasOwn(shapes, word))
const wanted = words.filter((word) => Object.hasOwn(suites, word))
if (names.length === 0 || names.length + wanted.length < words.length) {
  console.error(`usage: npm run test:shapes -- <${Object.keys(shapes).join('|')}>… [${Object.keys(suites).join('|')}]…`)
  process.exit(2)
}
run('build', ['esbuild.config.mjs'])
const times: string[] = []
for (const name of names) {
  const program = programs[name]
  if (program) run(`build of ${name}`, program.build)
  for (const suite of wanted.length > 0 ? wanted : Object.keys(suites)) {
    const started = Date.now()
    run(`${suite}, ${shapes[name].what}`, argumentsOf(suite, name), { ...program?.env, MCR_TEST_SHAPE: name })
    times.push(`${name} ${suite} ${Math.round((Date.now() - started) / 1000)} s`)
  }
}
console.log(`\nall green: ${times.join(', ')}`)

function argumentsOf(suite: string, name: ShapeName): string[] {
  const all = suites[suite] as string[]
  return suite === 'protocol' && (name === 'nginx' || name === 'caddy') ? [...withoutParser, ...all] : all
}

function run(what: string, args: string[], env: Record<string, string> = {}): void {
  console.log(`\n── ${what}`)
  const { status, signal } = spawnSync(node, args, { stdio: 'inherit', env: { ...process.env, ...env } })
  if (status === 0) return
  console.error(`\n${what}: failed (${signal ?? `exit ${status}`})`)
  process.exit(1)
}
