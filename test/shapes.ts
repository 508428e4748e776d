// The suites, unchanged, against the registry in another shape: `npm run test:shapes -- binary`, or `-- binary protocol matrix` for some suites.
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

const [name, ...wanted] = process.argv.slice(2)
if (name === undefined || !Object.hasOwn(shapes, name) || wanted.some((suite) => !Object.hasOwn(suites, suite))) {
  console.error(`usage: npm run test:shapes -- <${Object.keys(shapes).join('|')}> [${Object.keys(suites).join('|')}]…`)
  process.exit(2)
}
const program = programs[name as ShapeName]
run('build', ['esbuild.config.mjs'])
if (program) run('build', program.build)
const times: string[] = []
for (const suite of wanted.length > 0 ? wanted : Object.keys(suites)) {
  const started = Date.now()
  run(suite, suites[suite] as string[])
  times.push(`${suite} ${Math.round((Date.now() - started) / 1000)} s`)
}
console.log(`\n${shapes[name as ShapeName].what}: all green: ${times.join(', ')}`)

function run(what: string, args: string[]): void {
  console.log(`\n── ${what}, ${shapes[name as ShapeName].what}`)
  const { status, signal } = spawnSync(node, args, {
    stdio: 'inherit',
    env: { ...process.env, ...program?.env, MCR_TEST_SHAPE: name },
  })
  if (status === 0) return
  console.error(`\n${what} failed in the shape ${name} (${signal ?? `exit ${status}`})`)
  process.exit(1)
}
