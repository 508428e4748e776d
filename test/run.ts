// Everything that must be green, one phase after another; the first red one ends it. `npm test -- unit protocol` runs just those.
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'

const node = process.execPath
/** A test that hangs is a failure after this, not a gate that never answers. */
const bounds = ['--test', '--test-timeout=300000', '--test-force-exit']
const tests = (...patterns: string[]) => patterns.flatMap((pattern) => globSync(pattern)).sort()
const phases: [name: string, command: string, args: string[], env?: Record<string, string>][] = [
  ['lint', 'node_modules/.bin/biome', ['check', '.']],
  ['types', 'node_modules/.bin/tsc', ['-p', 'tsconfig.json']],
  ['types without Node', 'node_modules/.bin/tsc', ['-p', 'tsconfig.lib.json']],
  ['build', node, ['esbuild.config.mjs']],
  ['unit', node, [...bounds, ...tests('test/*.test.ts', 'test/unit/**/*.test.ts', 'test/property/**/*.test.ts')]],
  ['contract', node, [...bounds, ...tests('test/contract/**/*.test.ts')]],
  ['protocol', node, [...bounds, ...tests('test/protocol/**/*.test.ts')]],
  [
    'protocol, three processes',
    node,
    [...bounds, ...tests('test/protocol/{upload,manifest,blob,listing,routing,security}.test.ts')],
    { MCR_TEST_SHAPE: 'split' },
  ],
  ['matrix', node, [...bounds, 'test/matrix/run.ts']],
  ['matrix, three processes', node, [...bounds, 'test/matrix/run.ts'], { MCR_TEST_SHAPE: 'split' }],
  ['schema', node, ['test/schema/run.ts']],
  ['conformance', node, ['test/conformance/run.ts']],
  ['e2e', node, ['test/e2e/run.ts']],
  ['e2e, three processes', node, ['test/e2e/run.ts'], { MCR_TEST_SHAPE: 'split' }],
  ['access', node, ['test/e2e/access.ts']],
  ['access, three processes', node, ['test/e2e/access.ts'], { MCR_TEST_SHAPE: 'split' }],
]

const wanted = process.argv.slice(2)
const times: string[] = []
for (const [name, command, args, env] of phases) {
  if (wanted.length > 0 && !wanted.includes(name.split(',')[0] as string)) continue
  console.log(`\n── ${name}`)
  const started = Date.now()
  if (args.length === bounds.length && args[0] === '--test') continue
  const { status, signal } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, ...env } })
  times.push(`${name} ${Math.round((Date.now() - started) / 1000)} s`)
  if (status !== 0) {
    console.error(`\n${name} failed (${signal ?? `exit ${status}`})`)
    process.exit(1)
  }
}
console.log(`\nall green: ${times.join(', ')}`)
