import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'
import { build } from 'esbuild'

const layers = ['handlers', 'lib', 'runtime', 'test'] as const
const mayImport: Record<string, readonly string[]> = {
  handlers: ['lib'],
  lib: ['lib'],
  runtime: ['lib', 'runtime'],
  test: ['lib', 'runtime', 'test', 'handlers'],
}
const layerOf = (file: string) => layers.find((layer) => file.startsWith(`${layer}/`))
/** Generated code is read in its source, the .proto files. */
const sources = globSync(layers.map((layer) => `${layer}/**/*.ts`))
  .filter((file) => !file.startsWith('lib/admin/gen/'))
  .sort()

test('imports go from handlers to lib, from runtime to lib, from test to anything, and nowhere else', async () => {
  const { metafile } = await build({
    entryPoints: sources,
    bundle: true,
    write: false,
    outdir: 'unused',
    packages: 'external',
    format: 'esm',
    platform: 'node',
    metafile: true,
  })
  const wrong: string[] = []
  for (const [file, { imports }] of Object.entries(metafile.inputs)) {
    const layer = layerOf(file)
    if (!layer) continue
    for (const { path, external } of imports) {
      const target = external ? undefined : layerOf(path)
      if (target && !mayImport[layer]?.includes(target)) wrong.push(`${file} imports ${path}`)
      // A handler is a unit of deployment: two of them share lib, never each other.
      if (target === 'handlers' && layer === 'handlers' && path !== file) wrong.push(`${file} imports ${path}`)
      if (external && (layer === 'lib' || layer === 'handlers') && path.startsWith('node:')) wrong.push(`${file} imports ${path}`)
    }
  }
  assert.deepEqual(wrong, [])
})

const onlyIn: [what: RegExp, files: RegExp, why: string][] = [
  [/from 'jose'/, /^lib\/auth\/jwt\.ts$|^test\/support\//, 'tokens have closed shapes of verification'],
  [/from 'itty-router'/, /^lib\/http\/mount\.ts$/, 'routing is one place'],
  [/^import Database from 'libsql'/m, /^runtime\/database-file\.ts$/, 'the driver aborts the process on values it does not know'],
  [
    /-shm/,
    /^runtime\/database-changes\.ts$|^test\/|^lib\/metadata/,
    'closing another descriptor of that file drops the locks of the process',
  ],
]
for (const [what, files, why] of onlyIn)
  test(`${what.source} stands only in ${files.source}: ${why}`, () => {
    const found = sources.filter(
      (file) =>
        file !== 'test/architecture.test.ts' && what.test(readFileSync(file, 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '')),
    )
    assert.deepEqual(
      found.filter((file) => !files.test(file)),
      [],
    )
  })

test('lib and handlers keep no state in a module', () => {
  const wrong: string[] = []
  for (const file of sources.filter((path) => /^(lib|handlers)\//.test(path)))
    for (const line of readFileSync(file, 'utf8').split('\n'))
      if (
        /^(export )?(let|var) |^(export )?const \w+ = new (Map|WeakMap|LRUCache)\b|^(export )?const \w+(: [^=]+)? = new Set\(\)/.test(
          line,
        )
      )
        wrong.push(`${file}: ${line}`)
  assert.deepEqual(wrong, [])
})

test('files stay short enough to read', () => {
  const budgets: [RegExp, number][] = [
    [/^handlers\//, 130],
    [/^lib\//, 240],
    [/^runtime\//, 380],
  ]
  const long = sources.filter((file) => {
    const budget = budgets.find(([files]) => files.test(file))?.[1] ?? Number.POSITIVE_INFINITY
    return readFileSync(file, 'utf8').split('\n').length > budget
  })
  assert.deepEqual(long, [])
})

test('relative links of the documentation lead somewhere', () => {
  const wrong: string[] = []
  for (const file of globSync(['*.md', 'docs/**/*.md']))
    for (const [, target] of readFileSync(file, 'utf8').matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)) {
      const path = normalize(join(dirname(file), target as string))
      if (!existsSync(path)) wrong.push(`${file}: ${target}`)
    }
  assert.deepEqual(wrong, [])
})
