// Deliberate defects, one at a time in a copy of the tree: each must be caught by a layer. `--slice`: the quick ones; `--only` a text;
// `--every N --from K` for several at a time.
import { spawnSync } from 'node:child_process'
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { transformSync } from 'esbuild'
import type { Layer } from './layers.ts'
import { type Mutant, mutants } from './list.ts'

const { values } = parseArgs({
  options: {
    slice: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    /** each Nth of the list, from one */
    every: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
    /** the layers are also run over the unchanged copy, where each must be green */
    baseline: { type: 'boolean', default: false },
  },
})
const root = new URL('../../', import.meta.url).pathname
/** A layer that has not ended by then has shown nothing. */
const patienceMs = 600_000
const wanted = mutants
  .filter(({ name, slice }) => (!values.slice || slice) && name.includes(values.only))
  .filter((_, index) => index % Number(values.every) === Number(values.from))
if (wanted.length === 0) {
  console.error('no mutant has that name, and nothing would be shown: see test/mutants/list.ts')
  process.exit(2)
}

// All of the list, also what does not run now: a list that rots is found by whoever changes the code.
const rotten = mutants.flatMap(({ name, changes }) =>
  changes.flatMap(([file, find]) => {
    const times = readFileSync(join(root, file), 'utf8').split(find).length - 1
    return times === 1 ? [] : [`${name}: ${file} has the text to replace ${times} times, not once:\n${find}`]
  }),
)
if (rotten.length > 0) {
  console.error(rotten.join('\n\n'))
  process.exit(1)
}

const copy = mkdtempSync(join(tmpdir(), 'mcr-mutants-'))
process.once('exit', (code) => {
  if (code === 0) rmSync(copy, { recursive: true, force: true })
  else console.log(`mutants: kept in ${copy}; below kept/ what the layers said and left of each that was not caught`)
})
/** Where the layers work over one mutant, and say what they find. */
function workplace(name: string): string {
  const folder = join(copy, 'kept', name.replaceAll(/\W+/g, '-'))
  mkdirSync(folder, { recursive: true })
  return folder
}
for (const name of [
  'handlers',
  'lib',
  'runtime',
  'migrations',
  'deploy',
  'docs',
  'test',
  'package.json',
  'esbuild.config.mjs',
  'README.md',
])
  cpSync(join(root, name), join(copy, name), { recursive: true })
symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))

/** Shape: whether the layer failed, and its words for it. One that does not end has not. */
function run({ args }: Layer, folder: string): { failed: boolean; why: string } {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: copy,
    encoding: 'utf8',
    timeout: patienceMs,
    killSignal: 'SIGKILL',
    maxBuffer: 64 * 1024 * 1024,
    env: { ...process.env, TMPDIR: folder, MCR_TEST_DIR: undefined, NODE_TEST_CONTEXT: undefined },
  })
  appendFileSync(join(folder, 'layers.log'), `${args.join(' ')}: ${status ?? signal}\n${stdout}\n${stderr}\n`)
  const lines = `${stdout}\n${stderr}`.split('\n').map((line) => line.trim())
  const why =
    lines.find((line) => /^(✖|FAILED|not ok|.*is not linearizable)/.test(line)) ?? lines.find((line) => line !== '') ?? ''
  return { failed: status !== null && status !== 0, why: signal ? `did not end in ${patienceMs / 1000} s` : why.slice(0, 160) }
}

function build(): void {
  const { status, stderr } = spawnSync(process.execPath, ['esbuild.config.mjs'], { cwd: copy, encoding: 'utf8' })
  if (status !== 0) throw new Error(`the copy does not build: ${stderr}`)
}

function apply({ name, changes }: Mutant): () => void {
  const before = new Map<string, string>()
  for (const [file, find, replace] of changes) {
    const path = join(copy, file)
    const text = readFileSync(path, 'utf8')
    if (!before.has(path)) before.set(path, text)
    writeFileSync(
      path,
      text.replace(find, () => replace),
    )
  }
  // A mutant that is no program would be caught by anything.
  for (const path of before.keys()) if (path.endsWith('.ts')) transformSync(readFileSync(path, 'utf8'), { loader: 'ts' })
  return () => {
    for (const [path, text] of before) writeFileSync(path, text)
    void name
  }
}

const seconds = (since: number) => `${((Date.now() - since) / 1000).toFixed(1)} s`
let missed = 0
if (values.baseline) {
  build()
  const layers = new Map(wanted.flatMap((mutant) => mutant.layers).map((layer) => [layer.args.join(' '), layer]))
  for (const layer of layers.values()) {
    const began = Date.now()
    const folder = workplace(`unchanged ${layer.args.join(' ')}`.slice(0, 100))
    const { failed, why } = run(layer, folder)
    if (failed) missed++
    else rmSync(folder, { recursive: true, force: true })
    console.log(`unchanged: ${layer.name} ${layer.args.at(-1)}: ${failed ? `RED: ${why}` : 'green'} (${seconds(began)})`)
  }
}
const started = Date.now()
for (const mutant of wanted) {
  const undo = apply(mutant)
  const folder = workplace(mutant.name)
  const tried: string[] = []
  let caught = ''
  for (const layer of mutant.layers) {
    if (layer.needsBuild) build()
    const began = Date.now()
    const { failed, why } = run(layer, folder)
    if (!failed) {
      tried.push(why.startsWith('did not end') ? `${layer.name} (${why})` : layer.name)
      continue
    }
    caught = `caught by ${layer.name} in ${seconds(began)}: ${why}`
    break
  }
  undo()
  // Whatever caught it kept the state of its failure, which is of no use.
  if (caught) rmSync(folder, { recursive: true, force: true })
  else missed++
  console.log(`${mutant.name}: ${caught || `NOT CAUGHT by ${tried.join(', ')}`}`)
}
console.log(
  `mutants: ${wanted.length} of ${mutants.length} in ${seconds(started)}: ${missed === 0 ? 'every one is caught' : `${missed} NOT CAUGHT`}`,
)
process.exitCode = missed === 0 ? 0 : 1
