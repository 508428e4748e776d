// The authorization matrix: every route × every kind of caller, over the wire. Prints the cells, and each difference.
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { loadHandlers, makeAssets, nativeFetch } from '../support/assets.ts'
import { testRegistry } from '../support/registry.ts'
import { shapeName, shapes } from '../support/shape.ts'
import { type Column, makeColumns } from './columns.ts'
import { makeFixtures, type Row, rows } from './rows.ts'

const shape = shapes[shapeName()].what

test(`the authorization matrix, ${shape}`, { timeout: 600_000 }, async () => {
  const table = rows()
  const routes = makeAssets(await loadHandlers()).routes.flatMap(({ methods, path }) =>
    methods.filter((method) => method !== 'HEAD').map((method) => `${method} ${path}`),
  )
  const missing = routes.filter((route) => !table.some((row) => row.route === route))
  if (missing.length > 0) throw new Error(`routes that the matrix does not know: ${missing.join(', ')}`)

  const registry = await testRegistry({ MCR_POLICY_USER_CONTENT: 'false' })
  const columns = await makeColumns(registry)
  await makeFixtures(registry)
  const letters = [...new Set(columns.map(({ letter }) => letter))]
  for (const { letter, what } of columns) console.log(`${letter}  ${what}`)
  console.log(`\n${'request'.padEnd(62)} ${letters.join('   ')}`)

  const differences: string[] = []
  let count = 0
  let refused = 0
  const stateOf = async () => {
    const parts: unknown[] = []
    for (const query of watched) parts.push(await registry.database.read.all(query))
    return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
  }
  const cell = async (row: Row, column: Column) => {
    const found = (await row.prepare?.(registry)) ?? {}
    const { method, path, body, headers } = row.send(found)
    const expected = row.expected[column.letter] as number
    const before = expected === 401 || expected === 403 ? await stateOf() : undefined
    const answer = await nativeFetch(`${registry.url}${path}`, {
      method,
      headers: { ...headers, ...column.headers },
      body: body === undefined ? null : Buffer.from(body, 'latin1'),
      redirect: 'manual',
    })
    const text = await answer.text()
    count++
    const status = streamStatus(answer.status, headers, text)
    if (status === 403) refused++
    const where = `${row.name} × ${column.letter} (${column.what})`
    if (status !== expected) differences.push(`${where}: ${status}, not ${expected}: ${text.slice(0, 160)}`)
    if (before !== undefined && status === expected && (await stateOf()) !== before)
      differences.push(`${where}: refused, and yet something changed`)
    if (row.lists && status === 200) {
      const names = (JSON.parse(text) as { repositories: string[] }).repositories.join(' ')
      const wanted = visible[column.letter] ?? visible.other
      if (names !== wanted) differences.push(`${where}: lists ${names}, not ${wanted}`)
    }
    return status
  }
  for (const row of table) {
    const line: Record<string, number | string> = {}
    for (const column of columns) {
      const status = await cell(row, column)
      line[column.letter] = line[column.letter] === undefined || line[column.letter] === status ? status : '***'
    }
    console.log(`${row.name.slice(0, 61).padEnd(62)} ${letters.map((letter) => line[letter]).join(' ')}`)
  }
  await new Promise((resolve) => setTimeout(resolve, 2_500))
  const [denied] = await registry.database.read.all<{ n: number }>(`SELECT sum(count) AS n FROM journal WHERE type = 'denied'`)
  console.log(
    `\n${count} cells in ${shape}, ${differences.length} differences; ${refused} times 403, ${denied?.n} denials in the journal`,
  )
  if (denied?.n !== refused) differences.push(`${refused} refusals, and ${denied?.n} denials in the journal`)
  for (const difference of differences) console.log(difference)
  if (differences.length > 0) throw new Error(`${differences.length} differences`)
})

const visible: Record<string, string> = { U: 'pub/app', B: 'priv/app pub/app', other: 'priv/app priv/secret pub/app' }

/** A Connect stream says its failure in its last frame. */
function streamStatus(status: number, headers: Record<string, string> | undefined, text: string): number {
  if (status !== 200 || headers?.['content-type'] !== 'application/connect+json') return status
  if (text.includes('"unauthenticated"')) return 401
  return text.includes('"permission_denied"') ? 403 : 200
}

/** Everything that a request could change, but not when something was last used. */
const watched = [
  'SELECT id, name, visible, deleted_epoch FROM repositories',
  'SELECT repo_id, name, manifest_id FROM tags',
  'SELECT repo_id, digest, deleted_epoch FROM manifests',
  'SELECT repo_id, digest, hidden_epoch FROM repo_blobs',
  'SELECT inc, size, state FROM uploads',
  'SELECT subject, name, roles, disabled, version FROM accounts',
  'SELECT id, account_id, kind, secret, scope, version, expires_at FROM credentials',
  'SELECT id, priority, rule, enabled FROM policy_rules',
  'SELECT kid FROM signing_keys',
  'SELECT id, issuer FROM trusts',
]
