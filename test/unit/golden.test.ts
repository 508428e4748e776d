import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { ociErrors } from '../../lib/oci/errors.ts'
import { documentKeys, exampleFile } from '../../runtime/cli/config.ts'
import { formatRoutes } from '../../runtime/cli/routes.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'
import { loadHandlers, makeAssets } from '../support/assets.ts'

const assets = makeAssets(await loadHandlers())

/** What the project promises to the outside, one file each: a change of it is a diff there. `UPDATE_GOLDEN=1` writes them. */
function golden(file: string, make: () => string | Promise<string>): void {
  test(`${file} is what the code says`, async () => {
    const text = await make()
    if (process.env.UPDATE_GOLDEN) writeFileSync(file, text)
    assert.equal(readFileSync(file, 'utf8'), text, `${file} is stale: UPDATE_GOLDEN=1 npm test -- unit`)
  })
}

golden('test/golden/routes.txt', () => formatRoutes(assets.routes))
golden('test/golden/errors.txt', () =>
  Object.entries(ociErrors)
    .map(([code, { status, message }]) => `${code.padEnd(24)} ${status} ${message}\n`)
    .join(''),
)
golden('docs/configuration.md', documentKeys)
golden('deploy/mcr.example.toml', exampleFile)
golden('test/golden/schema.sql', async () => {
  const database = await openDatabaseFile(join(mkdtempSync(join(tmpdir(), 'mcr-schema-')), 'mcr.db'), {
    onFatal: () => undefined,
  })
  await migrate(database, assets.migrations)
  const rows = await database.read.all<{ sql: string }>(
    `SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY type, name`,
  )
  await database.close()
  return `${rows.map((row) => row.sql).join(';\n')};\n`
})

test('every end-N of the specification has an endpoint', () => {
  const specs = new Set(assets.routes.flatMap((route) => route.spec))
  const wanted = [
    '1',
    '2',
    '3',
    '4a',
    '4b',
    '4c',
    '5',
    '6',
    '7a',
    '7b',
    '8a',
    '8b',
    '9',
    '10',
    '11',
    '12a',
    '12b',
    '13',
    '14',
  ].map((end) => `end-${end}`)
  assert.deepEqual(
    wanted.filter((end) => !specs.has(end)),
    [],
  )
})

test('the list `all` mounts every handler, and each other list a part of it', () => {
  const all = new Set(assets.routes.map((route) => route.handler))
  const named = (list: string) =>
    [...(assets.mounts[list] as string).matchAll(/"([a-z]+\/[a-z-]+)"/g)].map((match) => match[1] as string)
  assert.deepEqual(new Set(named('all')), all)
  for (const list of Object.keys(assets.mounts)) for (const name of named(list)) assert.ok(all.has(name), `${list}: ${name}`)
})
