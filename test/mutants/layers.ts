/** One look for a defect: a command of the project's own, with small numbers, run in a copy of the tree. */
export interface Layer {
  name: string
  args: readonly string[]
  /** it runs the build, so the copy is built first */
  needsBuild?: true
}

const test = (file: string, pattern?: string): readonly string[] => [
  '--test',
  '--test-timeout=120000',
  '--test-force-exit',
  ...(pattern ? [`--test-name-pattern=${pattern}`] : []),
  file,
]

export const contract = (file: string, pattern?: string): Layer => ({
  name: `contract ${file}`,
  args: test(`test/contract/${file}.test.ts`, pattern),
})
export const protocol = (file: string, pattern?: string): Layer => ({
  name: `protocol ${file}`,
  args: test(`test/protocol/${file}.test.ts`, pattern),
})
export const golden: Layer = { name: 'golden', args: test('test/unit/golden.test.ts') }
/** `who`: who is paused over what. */
export const interleave = (who: string, meanwhile = ''): Layer => ({
  name: 'interleave',
  args: ['test/interleave/run.ts', '--who', who, '--only', `meanwhile: .*${meanwhile}`],
})
export const linearize: Layer = {
  name: 'linearize',
  args: ['test/linearize/run.ts', '--ops', '600', '--clients', '4', '--processes', '2', '--disturb', '0'],
  needsBuild: true,
}
export const crash: Layer = { name: 'crash', args: ['test/crash/run.ts', '--kills', '40'], needsBuild: true }
/** Power cuts in first starts, from the writes on that come after the database is there. */
export const firstStart: Layer = {
  name: 'crashpoints first start',
  args: ['test/crashpoints/run.ts', '--kinds', 'power', '--only', 'first start', '--from', '20'],
  needsBuild: true,
}
