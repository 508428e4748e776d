import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { globSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { AdminService } from '../../lib/admin/gen/mcr/v1/admin_pb.ts'
import { AuditService } from '../../lib/admin/gen/mcr/v1/audit_pb.ts'
import { PolicyService } from '../../lib/admin/gen/mcr/v1/policy_pb.ts'
import { RegistryService } from '../../lib/admin/gen/mcr/v1/registry_pb.ts'
import { StorageService } from '../../lib/admin/gen/mcr/v1/storage_pb.ts'
import { openApi } from '../../lib/admin/openapi.ts'
import { operations } from '../../lib/admin/operations.ts'
import { ociErrors } from '../../lib/oci/errors.ts'
import { documentApi } from '../../runtime/cli/api-doc.ts'
import { documentKeys, exampleFile } from '../../runtime/cli/config.ts'
import { formatRoutes } from '../../runtime/cli/routes.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'
import { caddyConfig } from '../../runtime/proxy/caddy.ts'
import { nginxConfig } from '../../runtime/proxy/nginx.ts'
import { planRoutes } from '../../runtime/proxy/plan.ts'
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
golden('docs/api.md', documentApi)
golden('test/golden/openapi.json', () => `${JSON.stringify(openApi(operations, '0'), null, 1)}\n`)
golden('deploy/mcr.example.toml', exampleFile)
const site = { url: 'https://registry.example.com', cert: '/etc/mcr/tls/cert.pem', key: '/etc/mcr/tls/key.pem' }
const accel = { directory: '/var/lib/mcr/blobs', prefix: '/_mcr_blobs/' }
const one = planRoutes(assets, [{ mount: 'all', address: '127.0.0.1:5000' }])
const split = planRoutes(
  assets,
  ['pull', 'push', 'auth', 'admin'].map((mount) => ({ mount, address: `unix:/run/mcr/${mount}.sock` })),
)
const grpc = 'unix:/run/mcr/grpc.sock'
golden('deploy/nginx/one.conf', () => nginxConfig(one, site))
golden('deploy/nginx/split.conf', () => nginxConfig(split, { ...site, grpc, accel }))
golden('deploy/caddy/one.Caddyfile', () => caddyConfig(one, site))
golden('deploy/caddy/split.Caddyfile', () => caddyConfig(split, { ...site, grpc, accel }))
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

test('the list `auth` with either `push` or `jobs` has every job', () => {
  const jobs = (list: string) =>
    [...(assets.mounts[list] as string).split('jobs = ')[1]!.matchAll(/"([a-z-]+)"/g)].map((match) => match[1])
  const all = new Set(jobs('all').sort())
  for (const other of ['push', 'jobs']) assert.deepEqual(new Set([...jobs('auth'), ...jobs(other)].sort()), all, other)
})

test('the generated code is what the protos say', () => {
  const before = globSync('lib/admin/gen/**/*.ts').sort()
  const texts = before.map((file) => readFileSync(file, 'utf8'))
  execFileSync(process.execPath, ['lib/admin/proto/generate.mjs'])
  assert.deepEqual(globSync('lib/admin/gen/**/*.ts').sort(), before)
  for (const [index, file] of before.entries())
    assert.equal(readFileSync(file, 'utf8'), texts[index], `${file} was stale: npm run generate`)
})

test('every method of the protos is an operation, and every path, word and field of an operation is its own', () => {
  const methods = [AdminService, AuditService, PolicyService, RegistryService, StorageService].flatMap((service) =>
    service.methods.map((method) => method.name),
  )
  assert.deepEqual(operations.map(({ method }) => method.name).sort(), methods.sort())
  const rest = operations.map(({ rest: { method, path } }) => `${method} ${path}`)
  assert.equal(new Set(rest).size, rest.length)
  const words = operations.map(({ cli }) => cli.words)
  assert.equal(new Set(words).size, words.length)
  for (const {
    method,
    rest: { path },
    cli,
  } of operations)
    for (const name of [...[...path.matchAll(/:(\w+)/g)].map((match) => match[1]), ...(cli.args ?? [])])
      assert.ok(
        method.input.fields.some((field) => field.name === name),
        `${method.name} has no field ${name}`,
      )
})
