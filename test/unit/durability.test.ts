import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

const page = readFileSync('docs/durability.md', 'utf8')

test('every test that docs/durability.md names is there, by file and by name', () => {
  const citations = [...page.matchAll(/`(test\/[\w./-]+\.ts)`((?:,? “[^”]+”)*)/g)]
  assert.ok(citations.length > 60, `${citations.length} citations`)
  const missing: string[] = []
  for (const [, file = '', names = ''] of citations) {
    if (!existsSync(file)) {
      missing.push(file)
      continue
    }
    const text = readFileSync(file, 'utf8')
    for (const [, name = ''] of names.matchAll(/“([^”]+)”/g)) if (!text.includes(name)) missing.push(`${file} “${name}”`)
  }
  assert.deepEqual(missing, [])
})

test('every invariant and every failure has a test or a decision', () => {
  const rows = [...page.matchAll(/^\| ([IL][0-9]+) \|.*\| ([^|]+) \|$/gm)]
  assert.deepEqual(
    rows.map(([, id]) => id),
    [...Array.from({ length: 26 }, (_, index) => `I${index + 1}`), ...Array.from({ length: 26 }, (_, index) => `L${index + 1}`)],
  )
  for (const [, id, shown = ''] of rows) assert.match(shown, /`test\/|decisions\/[0-9]{4}-/, `${id}`)
})
