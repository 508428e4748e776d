import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { operations } from '../../lib/admin/operations.ts'
import { pruneJournal } from '../../lib/jobs/prune-journal.ts'
import { appendToChain, chainHash, type JournalEntry, payloadHashOf } from '../../lib/journal/chain.ts'
import { change } from '../../lib/journal/change.ts'
import { checkpointJournal } from '../../lib/journal/checkpoint.ts'
import { createGather, type NotedEvent } from '../../lib/journal/gather.ts'
import { type JournalReport, verifyJournal } from '../../lib/journal/verify.ts'
import type { Sql } from '../../lib/metadata/sql.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'
import { sha256 } from '../../runtime/sha256.ts'
import { loadHandlers, makeAssets, nativeFetch } from '../support/assets.ts'
import { sha256 as digestOf, emptyJson, ociManifest, pushImage } from '../support/oci.ts'
import { password, startRegistry } from '../support/process.ts'
import { type FetchOptions, testRegistry } from '../support/registry.ts'
import { shapeName, shapes } from '../support/shape.ts'

const registry = await testRegistry()
const { database } = registry
const chained = await signedChain()
const sentinel = await registry.account('sentinel', [])

/** What is written without a change of anything; it gathers, so it comes when it comes. */
const noted = ['denied', 'login', 'login_failed', 'token_refused', 'token_made', 'manifest_pulled']
const isNoted = noted.map((type) => `'${type}'`).join()

interface Entry {
  seq: number
  type: string
  actor: string
  address: string | null
  repository: string | null
  tag: string | null
  detail: string | null
  count: number
}
const entriesAfter = async (seq: number, where = '1') =>
  await database.read.all<Entry>(
    `SELECT seq, type, actor, address, repository, tag, detail, count FROM journal WHERE seq > ? AND ${where} ORDER BY seq`,
    [seq],
  )
const head = async () => (await database.read.all<{ seq: number }>('SELECT max(seq) AS seq FROM journal'))[0]?.seq ?? 0

const json = (body: object): FetchOptions => ({
  body: JSON.stringify(body),
  headers: { 'content-type': 'application/json' },
})

/** Everything that a change can change, as one text. When something was last used moves on by itself. */
async function state(): Promise<string> {
  const tables = {
    repositories: 'id, name, visible, deleted_epoch',
    repo_blobs: 'repo_id, digest, hidden_epoch',
    manifests: 'id, repo_id, digest, deleted_epoch',
    tags: 'repo_id, name, manifest_id, updated_at',
    tag_history: 'repo_id, name, old_digest, new_digest, event_id',
    accounts: 'id, name, subject, roles, disabled, password_hash',
    credentials: 'id, account_id, kind, version, hash, expires_at',
    policy_rules: 'id, priority, rule, enabled, managed_by',
    trusts: 'id, issuer, audience',
    signing_keys: 'kid',
    gc_state: 'paused_by',
  }
  const found: Record<string, unknown> = {}
  for (const [table, columns] of Object.entries(tables)) {
    const known = (await database.read.all<{ name: string }>(`SELECT name FROM pragma_table_info('${table}')`)).map(
      ({ name }) => name,
    )
    assert.ok(known.length > 0, `there is a table ${table}`)
    const wanted = columns.split(', ').filter((column) => known.includes(column))
    // A repository that nothing was stored in is nobody's yet: an upload that failed may leave its row.
    const where = table === 'repositories' ? 'WHERE visible = 1' : ''
    found[table] = await database.read.all(
      `SELECT ${wanted.map((name) => `quote(${name}) AS ${name}`).join()} FROM ${table} ${where}`,
    )
  }
  return JSON.stringify(found)
}

interface Step {
  what: string
  /** The operation of the administration that it is; what comes over /v2 has none. */
  operation?: string
  method: 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  path: () => string | Promise<string>
  with?: () => FetchOptions
  keep?: (answer: Record<string, never>) => void
  entries: string[]
  /** Why the change does not fail with its entry, where that is known. */
}

const manifest = (note: string) =>
  JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: emptyJson, layers: [], annotations: { note } })
const putManifest = (what: string, path: string, note: string): Step => ({
  what,
  method: 'PUT',
  path: () => path,
  with: () => ({ body: manifest(note), headers: { 'content-type': ociManifest } }),
  entries: ['manifest_pushed'],
})
const one = manifest('one')
const kept: Record<string, string> = {}
const upload = async (): Promise<string> => {
  const begun = await registry.fetch('POST', '/v2/j/app/blobs/uploads/')
  const place = begun.headers.get('location') as string
  const went = await registry.fetch('PATCH', place, { body: 'in two pieces' })
  return went.headers.get('location') as string
}
const admin = '/v1/repositories/j/app/-'

const steps: Step[] = [
  {
    what: 'a blob in one request',
    method: 'POST',
    path: () => `/v2/j/app/blobs/uploads/?digest=${emptyJson.digest}`,
    with: () => ({ body: '{}' }),
    entries: ['blob_uploaded'],
  },
  {
    what: 'a blob in pieces',
    method: 'PUT',
    path: async () => {
      const place = await upload()
      return `${place}${place.includes('?') ? '&' : '?'}digest=${digestOf('in two pieces')}`
    },
    entries: ['blob_uploaded'],
  },
  {
    what: 'a mount',
    method: 'POST',
    path: () => `/v2/j/other/blobs/uploads/?mount=${emptyJson.digest}&from=j/app`,
    entries: ['blob_mounted'],
  },
  {
    what: 'the deletion of a blob',
    method: 'DELETE',
    path: () => `/v2/j/app/blobs/${digestOf('in two pieces')}`,
    entries: ['blob_deleted'],
  },
  putManifest('a push of a tag', '/v2/j/app/manifests/v1', 'one'),
  putManifest('a push that moves a tag', '/v2/j/app/manifests/v1', 'two'),
  putManifest('a push of three tags at once', `/v2/j/app/manifests/${digestOf(one)}?tag=a&tag=b&tag=c`, 'one'),
  {
    what: 'a move of a tag',
    operation: 'MoveTag',
    method: 'PUT',
    path: () => `${admin}/tags/v1`,
    with: () => json({ to: digestOf(one) }),
    entries: ['tag_moved'],
  },
  { what: 'untagging over /v2', method: 'DELETE', path: () => '/v2/j/app/manifests/a', entries: ['tag_deleted'] },
  {
    what: 'untagging over /v1',
    operation: 'DeleteTag',
    method: 'DELETE',
    path: () => `${admin}/tags/b`,
    entries: ['tag_deleted'],
  },
  {
    what: 'undeleting a tag',
    operation: 'Undelete',
    method: 'POST',
    path: () => `${admin}/undelete`,
    with: () => json({ reference: 'b' }),
    entries: ['tag_moved'],
  },
  {
    what: 'the deletion of a manifest with three tags',
    operation: 'DeleteManifest',
    method: 'DELETE',
    path: () => `${admin}/manifests/${digestOf(one)}`,
    entries: ['manifest_deleted', 'tag_deleted', 'tag_deleted', 'tag_deleted'],
  },
  {
    what: 'undeleting a manifest',
    operation: 'Undelete',
    method: 'POST',
    path: () => `${admin}/undelete`,
    with: () => json({ reference: digestOf(one) }),
    entries: ['manifest_undeleted', 'tag_moved', 'tag_moved', 'tag_moved', 'tag_moved'],
  },
  {
    what: 'the deletion of a manifest over /v2',
    method: 'DELETE',
    path: () => `/v2/j/app/manifests/${digestOf(manifest('two'))}`,
    entries: ['manifest_deleted'],
  },
  {
    what: 'a purge',
    operation: 'Purge',
    method: 'POST',
    path: () => '/v1/purge',
    with: () => json({ repositories: ['j/app'], keep: 3 }),
    entries: ['purged', 'tag_deleted'],
  },
  {
    what: 'the deletion of a repository',
    operation: 'DeleteRepository',
    method: 'DELETE',
    path: () => '/v1/repositories/j/app',
    entries: ['repository_deleted'],
  },
  {
    what: 'undeleting a repository',
    operation: 'Undelete',
    method: 'POST',
    path: () => `${admin}/undelete`,
    with: () => json({}),
    entries: ['repository_undeleted'],
  },
  {
    what: 'a new account',
    operation: 'CreateAccount',
    method: 'POST',
    path: () => '/v1/accounts',
    with: () => json({ name: 'jo', password: 'long enough' }),
    entries: ['account_added'],
  },
  {
    what: 'an account disabled',
    operation: 'UpdateAccount',
    method: 'PATCH',
    path: () => '/v1/accounts/jo',
    with: () => json({ disabled: true }),
    entries: ['account_changed'],
  },
  {
    what: 'an account enabled with a new password',
    operation: 'UpdateAccount',
    method: 'PATCH',
    path: () => '/v1/accounts/jo',
    with: () => json({ disabled: false, password: 'longer than before' }),
    entries: ['account_changed', 'account_changed'],
  },
  {
    what: 'a role given',
    operation: 'GrantRole',
    method: 'PUT',
    path: () => '/v1/accounts/jo/roles/release',
    entries: ['role_granted'],
  },
  {
    what: 'a role taken',
    operation: 'RevokeRole',
    method: 'DELETE',
    path: () => '/v1/accounts/jo/roles/release',
    entries: ['role_revoked'],
  },
  {
    what: 'an account deleted',
    operation: 'DeleteAccount',
    method: 'DELETE',
    path: () => '/v1/accounts/jo',
    entries: ['account_deleted'],
  },
  {
    what: 'a login of the administration',
    operation: 'Login',
    method: 'POST',
    path: () => '/v1/auth/login',
    with: () => ({ ...json({ username: 'admin', password: registry.admin.password }), as: null }),
    keep: (answer) => Object.assign(kept, { login: answer.token }),
    entries: ['credential_added'],
  },
  {
    what: 'a logout',
    operation: 'Logout',
    method: 'POST',
    path: () => '/v1/auth/logout',
    with: () => ({ bearer: kept.login }),
    entries: ['credential_revoked'],
  },
  {
    what: 'a token made',
    operation: 'CreateToken',
    method: 'POST',
    path: () => '/v1/tokens',
    with: () => json({ name: 'laptop' }),
    keep: (answer) => Object.assign(kept, { token: (answer.token as unknown as { id: number }).id }),
    entries: ['credential_added'],
  },
  {
    what: 'a token revoked',
    operation: 'RevokeToken',
    method: 'DELETE',
    path: () => `/v1/tokens/${kept.token}`,
    entries: ['credential_revoked'],
  },
  {
    what: 'a robot: account, rule and token',
    operation: 'CreateRobot',
    method: 'POST',
    path: () => '/v1/robots',
    with: () => json({ name: 'r', actions: ['registry:pull'], repositories: ['j/**'] }),
    entries: ['robot_added'],
  },
  {
    what: 'a robot with a new token',
    operation: 'RotateRobot',
    method: 'POST',
    path: () => '/v1/robots/r/rotate',
    entries: ['robot_rotated'],
  },
  {
    what: 'a robot deleted',
    operation: 'DeleteRobot',
    method: 'DELETE',
    path: () => '/v1/robots/r',
    entries: ['account_deleted'],
  },
  {
    what: 'a rule',
    operation: 'CreateRule',
    method: 'POST',
    path: () => '/v1/policy/rules',
    with: () => json({ effect: 'deny', actions: ['registry:pull'], repositories: ['nowhere'], description: 'j' }),
    keep: (answer) => Object.assign(kept, { rule: (answer.rule as unknown as { id: number }).id }),
    entries: ['rule_created'],
  },
  {
    what: 'a rule changed',
    operation: 'UpdateRule',
    method: 'PATCH',
    path: () => `/v1/policy/rules/${kept.rule}`,
    with: () => json({ enabled: false }),
    entries: ['rule_updated'],
  },
  {
    what: 'a rule deleted',
    operation: 'DeleteRule',
    method: 'DELETE',
    path: () => `/v1/policy/rules/${kept.rule}`,
    entries: ['rule_deleted'],
  },
  {
    what: 'a list of two rules applied',
    operation: 'ApplyRules',
    method: 'PUT',
    path: () => '/v1/policy/rules',
    with: () =>
      json({
        rules: ['x', 'y'].map((name) => ({
          effect: 'deny',
          actions: ['registry:pull'],
          repositories: [name],
          description: name,
        })),
      }),
    entries: ['rules_applied'],
  },
  {
    what: 'a trust',
    operation: 'CreateTrust',
    method: 'POST',
    path: () => '/v1/trusts',
    with: () =>
      json({
        issuer: 'https://issuer.example',
        audience: 'x',
        claims: ['sub=x'],
        actions: ['registry:pull'],
        repositories: ['j/**'],
      }),
    keep: (answer) => Object.assign(kept, { trust: (answer.trust as unknown as { id: number }).id }),
    entries: ['trust_added'],
  },
  {
    what: 'a trust ended',
    operation: 'DeleteTrust',
    method: 'DELETE',
    path: () => `/v1/trusts/${kept.trust}`,
    entries: ['trust_deleted'],
  },
  {
    what: 'a new signing key',
    operation: 'RotateKeys',
    method: 'POST',
    path: () => '/v1/keys/rotate',
    entries: ['keys_rotated'],
  },
  {
    what: 'collecting paused',
    operation: 'PauseGarbageCollection',
    method: 'POST',
    path: () => '/v1/gc/pause',
    entries: ['gc_paused'],
  },
  {
    what: 'collecting resumed',
    operation: 'ResumeGarbageCollection',
    method: 'POST',
    path: () => '/v1/gc/resume',
    entries: ['gc_resumed'],
  },
]

const ask = async (step: Step): Promise<Response> => await registry.fetch(step.method, await step.path(), step.with?.())

for (const step of steps) {
  test(`${step.what}: no change without its entry, no entry without its change, and one of each`, async (t) => {
    await t.test('while the journal takes no entry, the change fails and nothing of it stays', async () => {
      // An error that is no constraint: those have answers of their own.
      await registry.sql(
        `CREATE TRIGGER journal_closed BEFORE INSERT ON journal WHEN NEW.type NOT IN (${isNoted}) BEGIN SELECT json_extract('closed', '$'); END`,
      )
      try {
        const before = await state()
        const refused = await ask(step)
        assert.ok(refused.status >= 500, `${refused.status} ${await refused.text()}`)
        assert.equal(await state(), before)
      } finally {
        await registry.sql('DROP TRIGGER journal_closed')
      }
    })
    const at = await head()
    const before = await state()
    const response = await ask(step)
    const text = await response.text()
    assert.ok(response.ok, `${response.status} ${text}`)
    step.keep?.(text === '' ? {} : JSON.parse(text))
    assert.notEqual(await state(), before, 'something changed')
    const entries = await entriesAfter(at, `type NOT IN (${isNoted})`)
    assert.deepEqual(entries.map(({ type }) => type).sort(), step.entries)
    for (const { actor, address, count } of entries) {
      assert.match(actor, /^local:/, 'the account, not the host')
      assert.equal(address, '127.0.0.1')
      assert.equal(count, 1)
    }
  })
}

test('no operation that changes something, and no kind of entry, was left out above', () => {
  // Asking and looking, what an issuer must sign, and what a job does: these have tests of their own.
  const elsewhere = [
    ...['TestPolicy', 'ReplayPolicy', 'VerifyJournal', 'ExchangeToken', 'RunGarbageCollection', 'ReconcileStorage'],
    ...['VerifyStorage', 'RepairStorage'],
  ]
  const tested = new Set(steps.map(({ operation }) => operation))
  assert.deepEqual(
    operations
      .filter(({ rest, method }) => rest.method !== 'GET' && !tested.has(method.name) && !elsewhere.includes(method.name))
      .map(({ method }) => method.name),
    [],
  )
  const written = new Set(steps.flatMap(({ entries }) => entries))
  const kinds = [...readFileSync('lib/journal/event.ts', 'utf8').matchAll(/'([a-z]+_[a-z]+|purged)'/g)].map((found) => found[1])
  assert.ok(kinds.length > 20)
  assert.deepEqual(
    kinds.filter((kind) => !written.has(kind as string)),
    [
      ...['blob_damaged', 'blob_healed', 'manifest_collected', 'blobs_collected', 'gc_started', 'gc_completed'],
      ...['scrub_completed', 'rollback_accepted', 'snapshot_taken', 'retention_applied'],
    ],
  )
})

test('what is refused leaves no entry of a change, also where the first half of it was done already', async () => {
  await pushImage(registry, 'j/no', 'free')
  const { digest } = await pushImage(registry, 'j/no', 'held')
  const answer = await registry.fetch(
    'POST',
    '/v1/policy/rules',
    json({ effect: 'deny', actions: ['registry:delete'], repositories: ['j/no'], tags: ['held'], roles: [], priority: 1 }),
  )
  assert.equal(answer.status, 201)
  const at = await head()
  const before = await state()
  const refused: [status: number, method: 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, options?: FetchOptions][] = [
    [403, 'DELETE', `/v2/j/no/manifests/${digest}`],
    [403, 'DELETE', `/v1/repositories/j/no/-/manifests/${digest}`],
    [403, 'DELETE', '/v1/repositories/j/no'],
    [403, 'DELETE', '/v2/j/no/manifests/held'],
    [405, 'DELETE', `/v2/j/no/blobs/${emptyJson.digest}`],
    [404, 'DELETE', `/v2/j/no/manifests/nothing`],
    [404, 'PUT', '/v1/repositories/j/no/-/tags/x', json({ to: digestOf('nothing') })],
    [412, 'PUT', '/v1/repositories/j/no/-/tags/free', json({ to: digest, if_digest: digestOf('nothing') })],
    [400, 'POST', `/v2/j/no/blobs/uploads/?digest=${digestOf('this')}`, { body: 'that' }],
    [400, 'PUT', '/v2/j/no/manifests/x', { body: '{}', headers: { 'content-type': ociManifest } }],
    [404, 'PATCH', '/v1/policy/rules/999', json({ enabled: false })],
    [404, 'DELETE', '/v1/policy/rules/999'],
    [400, 'POST', '/v1/policy/rules', json({ effect: 'maybe', actions: ['registry:pull'] })],
    [409, 'POST', '/v1/accounts', json({ name: 'admin', password: 'long enough' })],
    [404, 'DELETE', '/v1/accounts/nobody'],
    // The last admin stays, and the change that would end that is undone as a whole.
    [409, 'PATCH', '/v1/accounts/admin', json({ disabled: true })],
    [409, 'DELETE', '/v1/accounts/admin/roles/admin'],
    [404, 'DELETE', '/v1/tokens/999'],
    [404, 'POST', '/v1/robots/nobody/rotate'],
    [404, 'DELETE', '/v1/trusts/999'],
    [404, 'POST', '/v1/repositories/j/no/-/undelete', json({ reference: 'nothing' })],
    [401, 'POST', '/v1/auth/login', { ...json({ username: 'admin', password: 'wrong' }), as: null }],
  ]
  for (const [status, method, path, options] of refused) {
    const response = await registry.fetch(method, path, options)
    assert.equal(response.status, status, `${method} ${path}: ${await response.text()}`)
  }
  assert.deepEqual(await entriesAfter(at, `type NOT IN (${isNoted})`), [])
  assert.equal(await state(), before)
})

/** Entries of a kind after a number, once they stand for `count` of what happened. */
async function notedAfter(seq: number, where: string, count: number): Promise<Entry[]> {
  for (let wait = 0; ; wait++) {
    const found = await entriesAfter(seq, where)
    if (found.reduce((sum, entry) => sum + entry.count, 0) >= count || wait === 100) {
      assert.equal(
        found.reduce((sum, entry) => sum + entry.count, 0),
        count,
        where,
      )
      return found
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** Waits until everything that was noted so far is in the journal: a denial made now is written with it. Shape: the head. */
async function settled(): Promise<number> {
  const repository = `sentinel/${randomUUID()}`
  assert.equal((await registry.fetch('GET', `/v2/${repository}/manifests/v1`, { as: sentinel })).status, 403)
  await notedAfter(0, `repository = '${repository}'`, 1)
  // Another process writes what it noted in a second of its own.
  if (shapes[shapeName()].processes > 1) await new Promise((resolve) => setTimeout(resolve, 1_500))
  return await head()
}

test('denials, failed logins, refused tokens, logins, tokens made and pulls appear, equal ones as one entry with a count', async () => {
  const user = await registry.account('seen', [])
  const { digest } = await pushImage(registry, 'j/seen', 'v1')
  const subject = (await database.read.all<{ subject: string }>(`SELECT subject FROM accounts WHERE name = 'seen'`))[0]?.subject
  const at = await settled()

  const denied = await Promise.all(
    Array.from({ length: 60 }, () => registry.fetch('GET', '/v2/j/seen/manifests/v1', { as: user })),
  )
  assert.deepEqual([...new Set(denied.map(({ status }) => status))], [403])
  const denials = await notedAfter(at, `type = 'denied'`, 60)
  assert.ok(denials.length < 60, 'not one entry each')
  for (const entry of denials) {
    assert.deepEqual([entry.actor, entry.address, entry.repository], [subject, '127.0.0.1', 'j/seen'])
    assert.equal((JSON.parse(entry.detail as string) as { action: string }).action, 'registry:pull')
  }
  // Of sixty at once each process checks the password once.
  const logins = await entriesAfter(at, `type = 'login' AND actor = '${subject}'`)
  const checked = logins.reduce((sum, { count }) => sum + count, 0)
  assert.ok(checked >= 1 && checked <= shapes[shapeName()].processes, `${checked} logins`)

  for (const name of ['seen', 'seen', 'nobody-there', 'my secret password'])
    assert.equal((await registry.fetch('GET', '/v2/', { as: { name, password: 'wrong' } })).status, 401)
  const failed = await notedAfter(at, `type = 'login_failed'`, 4)
  assert.deepEqual(
    [...new Set(failed.map(({ detail }) => (JSON.parse(detail as string) as { name: string }).name))].sort(),
    // People type passwords where the name goes: what cannot be a name is not kept.
    ['?', 'nobody-there', 'seen'],
  )

  const token = await registry.token('repository:j/seen:pull')
  const [made] = await notedAfter(at, `type = 'token_made'`, 1)
  assert.equal((JSON.parse(made?.detail as string) as { scope: string }).scope, 'repository:j/seen:pull')
  for (const bearer of ['nonsense', `${token}x`, 'mcrp_nonsense'])
    assert.equal((await registry.fetch('GET', '/v2/', { bearer })).status, 401)
  for (const entry of await notedAfter(at, `type = 'token_refused'`, 3)) assert.equal(entry.actor, 'anonymous')
  const old = (
    (await (
      await nativeFetch(`${registry.url}/v2/token`, { headers: { authorization: `Basic ${btoa(`seen:${user.password}`)}` } })
    ).json()) as { token: string }
  ).token
  await registry.sql(
    `UPDATE credentials SET version = version + 1 WHERE account_id = (SELECT id FROM accounts WHERE name = 'seen')`,
  )
  assert.equal((await registry.fetch('GET', '/v2/', { bearer: old })).status, 401)
  await notedAfter(at, `type = 'token_refused' AND actor = '${subject}'`, 1)

  for (let pull = 0; pull < 3; pull++) assert.equal((await registry.fetch('GET', '/v2/j/seen/manifests/v1')).status, 200)
  assert.equal((await registry.fetch('GET', `/v2/j/seen/manifests/${digest}`)).status, 200)
  assert.equal((await registry.fetch('HEAD', '/v2/j/seen/manifests/v1')).status, 200)
  await settled()
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  const pulls = await entriesAfter(at, `type = 'manifest_pulled'`)
  assert.ok(pulls.length >= 1 && pulls.length <= shapes[shapeName()].processes, 'sampled: the first of the hour in each process')
  for (const pulled of pulls) assert.deepEqual([pulled.repository, pulled.count], ['j/seen', 1])
  assert.ok(
    pulls.some(({ tag }) => tag === 'v1'),
    'the first was by tag',
  )
})

test('a 401 to who sent nothing, insufficient_scope and what is not there leave no entry', async () => {
  const narrow = await registry.token('repository:j/seen:pull')
  const at = await settled()
  for (const path of ['/v2/', '/v2/j/seen/manifests/v1', '/v2/_catalog', '/v1/accounts', '/v1/audit', '/v1/auth/whoami'])
    assert.equal((await registry.fetch('GET', path, { as: null })).status, 401, path)
  assert.equal((await registry.fetch('DELETE', '/v1/repositories/j/seen', { as: null })).status, 401)
  const scope = await registry.fetch('PUT', '/v2/j/seen/manifests/v2', {
    bearer: narrow,
    body: manifest('x'),
    headers: { 'content-type': ociManifest },
  })
  assert.equal(scope.status, 401)
  assert.match(scope.headers.get('www-authenticate') as string, /error="insufficient_scope"/)
  assert.equal((await registry.fetch('GET', '/v2/j/seen/manifests/nothing')).status, 404)
  await settled()
  assert.deepEqual(
    (await entriesAfter(at)).map(({ type, repository }) => `${type} ${repository?.split('/')[0]}`),
    ['denied sentinel'],
  )
})

/** A database of its own with a chain in it, and a clock that the test moves. */
async function makeChain(hook: (close: () => Promise<void>) => void) {
  const dir = mkdtempSync(join(tmpdir(), 'mcr-journal-'))
  const store = await openDatabaseFile(join(dir, 'mcr.db'), { onFatal: (error) => Promise.reject(error) })
  hook(async () => {
    await store.close()
    rmSync(dir, { recursive: true, force: true })
  })
  await migrate(store, makeAssets(await loadHandlers()).migrations)
  const lines: string[] = []
  const clock = { now: Date.UTC(2026, 0, 1) }
  const ctx = {
    metadata: store,
    now: () => clock.now,
    newId: randomUUID,
    count: () => undefined,
    log: (event: object) => lines.push(JSON.stringify({ pid: 1, ...event })),
  }
  const signal = new AbortController().signal
  const job = checkpointJournal(new Uint8Array(randomBytes(32)))
  const jobContext = ctx as unknown as Parameters<typeof job.run>[0]
  return {
    store,
    clock,
    ctx,
    lines,
    async add(count: number, event: { type: string } = { type: 'keys_rotated' }) {
      for (let index = 0; index < count; index++)
        await change(
          ctx,
          { principal: { subject: `local:${index}` }, exchange: { address: '192.0.2.1' } },
          async (_sql, append) => {
            append({ repository: 'a/b', digest: 'sha256:x', tag: 'v1', detail: { kid: `${index}` }, ...event } as never)
          },
        )
    },
    checkpoint: () => job.run(jobContext, signal),
    prune: (options: { retentionMs: number; pullRetentionMs: number }) => pruneJournal(options).run(jobContext, signal),
    verify: (text = '') => verifyJournal(store.read, sha256, text),
    /** The report after somebody has had a hand in the database, which is then as it was. */
    async tampered(tamper: (sql: Sql) => Promise<unknown>, text = ''): Promise<JournalReport> {
      let report: JournalReport | undefined
      const undo = new Error('undo')
      await assert.rejects(
        store.write(async (sql) => {
          await tamper(sql)
          report = await verifyJournal(sql, sha256, text)
          throw undo
        }),
        undo,
      )
      return report as JournalReport
    },
  }
}

/** Twelve entries, signed at 5 and 10, with two that nothing has signed yet. */
async function signedChain() {
  const chain = await makeChain(after)
  await chain.add(5)
  await chain.checkpoint()
  await chain.add(5)
  await chain.checkpoint()
  await chain.add(2)
  assert.equal(chain.lines.length, 2)
  const report = await chain.verify(chain.lines.join('\n'))
  assert.deepEqual([report.ok, report.entries, report.checkpoints, report.problems], [true, 12, 4, []])
  return chain
}

/** Hashes from an entry on, made to fit what the rows say: what a holder of the database can do, and a client cannot. */
async function rehash(sql: Sql, from: number): Promise<void> {
  const rows = await sql.all<JournalEntry & { seq: number; hash: Uint8Array }>('SELECT * FROM journal ORDER BY seq')
  let before: Uint8Array = new Uint8Array(32)
  for (const row of rows) {
    if (row.seq >= from) {
      const payload = payloadHashOf(row, sha256)
      before = chainHash(before, row.seq, payload, sha256)
      await sql.run('UPDATE journal SET payload_hash = ?, hash = ? WHERE seq = ?', [payload, before, row.seq])
    } else before = row.hash
  }
}

/** A key that the database's holder made, and checkpoints signed with it in place of those at the numbers given. */
async function forge(sql: Sql, seqs: readonly number[], kid = 'forged'): Promise<void> {
  const pair = (await crypto.subtle.generateKey({ name: 'Ed25519' }, true, ['sign', 'verify'])) as CryptoKeyPair
  const jwk = JSON.stringify(await crypto.subtle.exportKey('jwk', pair.publicKey))
  await sql.run(
    `INSERT INTO journal_keys(kid, public_jwk, private_sealed, created_at) VALUES (?, ?, x'00', 1)
     ON CONFLICT (kid) DO UPDATE SET public_jwk = excluded.public_jwk`,
    [kid, jwk],
  )
  for (const seq of seqs) {
    const [row] = await sql.all<{ hash: Uint8Array; at: number }>('SELECT hash, at FROM journal WHERE seq = ?', [seq])
    assert.ok(row)
    const text = `mcr journal ${seq} ${row.at} ${Buffer.from(row.hash).toString('hex')}`
    const signature = new Uint8Array(
      await crypto.subtle.sign({ name: 'Ed25519' }, pair.privateKey, new TextEncoder().encode(text)),
    )
    await sql.run('INSERT OR REPLACE INTO journal_checkpoints(seq, hash, at, kid, signature) VALUES (?,?,?,?,?)', [
      seq,
      row.hash,
      row.at,
      kid,
      signature,
    ])
  }
}

const what = ({ problems }: JournalReport) => problems.map((problem) => `${problem.seq} ${problem.what}`)

test('an entry that was edited is found, whichever field it was', async () => {
  for (const [column, value] of Object.entries({
    id: `'other'`,
    at: '1',
    type: `'keys_turned'`,
    actor: `'local:somebody-else'`,
    address: 'NULL',
    repository: `'a/c'`,
    digest: `'sha256:y'`,
    tag: `'v2'`,
    detail: `'{}'`,
    count: '2',
  })) {
    const report = await chained.tampered((sql) => sql.run(`UPDATE journal SET ${column} = ${value} WHERE seq = 7`))
    assert.deepEqual([report.ok, what(report)], [false, ['7 the entry was edited']], column)
  }
  for (const column of ['payload_hash', 'hash'])
    assert.equal((await chained.tampered((sql) => sql.run(`UPDATE journal SET ${column} = x'00' WHERE seq = 7`))).ok, false)
})

test('entries that were removed are found: the first, one in the middle, the last', async () => {
  const cases: [where: string, found: RegExp][] = [
    ['seq = 1', /^2 entries up to 1 are missing/],
    ['seq <= 3', /^4 entries up to 3 are missing/],
    ['seq = 6', /^6 entries 6 to 6 are missing/],
    ['seq BETWEEN 6 AND 8', /^6 entries 6 to 8 are missing/],
    ['seq = 12', /^12 entries up to 12 were written/],
    ['seq > 9', /^10 entries up to 10 were signed/],
    ['1', /^1 entries up to 12 were written|signed and are missing/],
  ]
  for (const [where, found] of cases) {
    const report = await chained.tampered((sql) => sql.run(`DELETE FROM journal WHERE ${where}`))
    assert.equal(report.ok, false, where)
    assert.match(what(report).join('\n'), new RegExp(found, 'm'), where)
  }
})

test('the last entries removed with the counter and the checkpoints are found by the lines of the log, and only by them', async () => {
  const tamper = async (sql: Sql) => {
    await sql.run('DELETE FROM journal WHERE seq > 8')
    await sql.run('DELETE FROM journal_checkpoints WHERE seq > 8')
    await sql.run(`UPDATE sqlite_sequence SET seq = 8 WHERE name = 'journal'`)
  }
  assert.equal((await chained.tampered(tamper)).ok, true)
  assert.deepEqual(what(await chained.tampered(tamper, chained.lines.join('\n'))), [
    '10 entries up to 10 were signed and are missing',
  ])
})

test('an entry that was inserted is found, in the middle, before the first and after the last', async () => {
  const insert = async (sql: Sql, seq: number) => {
    for (const direction of ['-seq - 1', '-seq'])
      await sql.run(`UPDATE journal SET seq = ${direction} WHERE seq ${direction === '-seq' ? '< 0' : `>= ${seq}`}`)
    await sql.run(
      `INSERT INTO journal(seq, id, at, type, actor, detail, count, payload_hash, hash, dropped)
       SELECT ?, 'inserted', at, type, 'local:nobody', detail, count, payload_hash, hash, 0 FROM journal WHERE seq = ?`,
      [seq, seq === 1 ? 2 : seq - 1],
    )
  }
  for (const seq of [1, 6, 13]) {
    const report = await chained.tampered((sql) => insert(sql, seq))
    assert.equal(report.ok, false)
    assert.ok(
      report.problems.some((problem) => problem.seq === seq),
      `${seq}: ${what(report)}`,
    )
  }
})

test('entries that were swapped are found, with their hashes and without', async () => {
  const swap = async (sql: Sql, columns: readonly string[]) => {
    const [a, b] = await sql.all<Record<string, string>>(`SELECT ${columns.join()} FROM journal WHERE seq IN (6, 7) ORDER BY seq`)
    // The id is unique: it is out of the way for a moment.
    await sql.run(`UPDATE journal SET id = 'x' || id WHERE seq IN (6, 7)`)
    for (const [seq, row] of [
      [7, a],
      [6, b],
    ] as const)
      await sql.run(
        `UPDATE journal SET ${columns.map((column) => `${column} = ?`).join()} WHERE seq = ${seq}`,
        Object.values(row ?? {}),
      )
  }
  const words = ['id', 'at', 'type', 'actor', 'address', 'repository', 'digest', 'tag', 'detail', 'count']
  assert.deepEqual(what(await chained.tampered((sql) => swap(sql, words))), ['6 the entry was edited', '7 the entry was edited'])
  assert.match(
    what(await chained.tampered((sql) => swap(sql, [...words, 'payload_hash']))).join('\n'),
    /^6 the hash does not follow/m,
  )
  assert.match(
    what(await chained.tampered((sql) => swap(sql, [...words, 'payload_hash', 'hash']))).join('\n'),
    /^6 the hash does not follow/m,
  )
})

test('a checkpoint that was forged is found: its signature, its hash, its key', async () => {
  for (const column of [`signature = x'${'00'.repeat(64)}'`, `hash = x'${'00'.repeat(32)}'`, 'at = at + 1', `kid = 'unknown'`])
    assert.match(
      what(await chained.tampered((sql) => sql.run(`UPDATE journal_checkpoints SET ${column} WHERE seq = 5`))).join('\n'),
      /^5 a checkpoint whose signature is wrong/m,
      column,
    )
  const moved = await chained.tampered(async (sql) => {
    await forge(sql, [5])
    await sql.run(`UPDATE journal SET detail = '{}' WHERE seq = 3`)
    await rehash(sql, 3)
  })
  assert.match(what(moved).join('\n'), /^5 a signed checkpoint says another hash/m)
})

test('a journal that was rewritten consistently by who holds the database is found by the lines of the log', async (t) => {
  const lines = chained.lines.join('\n')
  const rewrite = async (sql: Sql) => {
    await sql.run(`UPDATE journal SET actor = 'local:innocent' WHERE seq = 3`)
    await rehash(sql, 3)
  }
  const [{ kid = '' } = {}] = await chained.store.read.all<{ kid: string }>('SELECT kid FROM journal_keys')
  const ways: Record<string, (sql: Sql) => Promise<unknown>> = {
    'the checkpoints thrown away': (sql) => sql.run('DELETE FROM journal_checkpoints'),
    'the checkpoints and the key thrown away': async (sql) => {
      await sql.run('DELETE FROM journal_checkpoints')
      await sql.run('DELETE FROM journal_keys')
    },
    'signed again with another key': (sql) => forge(sql, [5, 10]),
    'signed again with another key under the name of the first': (sql) => forge(sql, [5, 10], kid),
  }
  for (const [name, way] of Object.entries(ways))
    await t.test(name, async () => {
      const tamper = async (sql: Sql) => {
        await rewrite(sql)
        await way(sql)
      }
      const inside = await chained.tampered(tamper)
      assert.deepEqual(inside.problems, [], 'nothing in the database tells: it was rewritten consistently')
      assert.equal((await chained.tampered(tamper, lines)).ok, false)
      assert.equal((await chained.tampered(tamper, chained.lines[0])).ok, false, 'one line is enough')
    })
  await t.test('and lines that hold no checkpoint are no proof', async () => {
    assert.equal((await chained.verify('{"event":"listening"}\n')).ok, false)
    assert.equal((await chained.verify(`noise\n${lines}\n{"event":"journal_checkpoint"`)).ok, true)
  })
})

test('the old end of the journal replaced by a made-up checkpoint is found by the lines of the log', async () => {
  const report = await chained.tampered(async (sql) => {
    // As if retention had taken all that the log can prove: what is left is made up from the first word to the last.
    await sql.run(`UPDATE journal SET actor = 'local:innocent' WHERE seq > 5`)
    await rehash(sql, 6)
    await forge(sql, [11])
    await sql.run('DELETE FROM journal_checkpoints WHERE seq < 11')
    await sql.run('DELETE FROM journal WHERE seq <= 11')
  }, chained.lines.join('\n'))
  assert.equal(report.ok, false)
})

test('an entry whose words were changed and marked as dropped is found', async () => {
  const report = await chained.tampered((sql) =>
    sql.run(`UPDATE journal SET actor = 'local:innocent', dropped = 1 WHERE seq = 7`),
  )
  assert.equal(report.ok, false)
})

test('an entry whose words were dropped by no retention is found', async () => {
  const report = await chained.tampered((sql) =>
    sql.run(
      `UPDATE journal SET actor = NULL, address = NULL, repository = NULL, digest = NULL, tag = NULL, detail = NULL, dropped = 1 WHERE seq = 7`,
    ),
  )
  assert.equal(report.ok, false)
})

const day = 86_400_000

test('retention drops what old entries say, keeps the chain, and removes what a signed checkpoint stands for', async (t) => {
  const chain = await makeChain((close) => t.after(close))
  const retention = { retentionMs: 400 * day, pullRetentionMs: 90 * day }
  await chain.add(4)
  await chain.add(3, { type: 'manifest_pulled' })
  await chain.add(3)
  await chain.checkpoint()
  await chain.add(5)
  const seqs = async (where: string) =>
    (await chain.store.read.all<{ seq: number }>(`SELECT seq FROM journal WHERE ${where} ORDER BY seq`)).map(({ seq }) => seq)
  const whole = 'actor IS NOT NULL AND detail IS NOT NULL AND dropped = 0'

  assert.deepEqual(await chain.prune(retention), { dropped: 0, removed: 0, hours: 0 }, 'nothing is old yet')
  assert.deepEqual((await seqs(whole)).length, 15)

  // The pulls are past their time, the rest is not: an island in the middle loses its words and keeps its place.
  chain.clock.now += 100 * day
  await chain.add(1)
  assert.deepEqual(await chain.prune(retention), { dropped: 3, removed: 0, hours: 0 })
  assert.deepEqual(await seqs('dropped = 1'), [5, 6, 7])
  assert.deepEqual(await seqs(`dropped = 1 AND coalesce(actor, address, repository, digest, tag, detail) IS NOT NULL`), [])
  let report = await chain.verify(chain.lines.join('\n'))
  assert.deepEqual([report.ok, report.dropped, report.entries, what(report)], [true, 3, 17, []])
  const [applied] = await chain.store.read.all<{ type: string; actor: string; detail: string }>(
    'SELECT type, actor, detail FROM journal ORDER BY seq DESC LIMIT 1',
  )
  assert.deepEqual([applied?.type, applied?.actor], ['retention_applied', 'system:prune-journal'], 'and says so')
  assert.equal((JSON.parse(applied?.detail ?? '{}') as { dropped: number }).dropped, 3)

  // Everything up to the checkpoint at 10 and beyond is old: the prefix goes, what is behind it stays without words.
  chain.clock.now += 310 * day
  await chain.add(1)
  const second = await chain.prune(retention)
  assert.deepEqual(second, { dropped: 12, removed: 10, hours: 0 })
  report = await chain.verify(chain.lines.join('\n'))
  assert.deepEqual([report.ok, report.firstSeq, what(report)], [true, 11, []])
  assert.equal((await chain.verify()).ok, true)
  assert.deepEqual((await seqs(whole)).length, report.entries - report.dropped)

  // What is left is guarded as before, and so is the checkpoint that everything hangs on now.
  const tampers = [
    'DELETE FROM journal WHERE seq = 11',
    'DELETE FROM journal_checkpoints WHERE seq = 10',
    `UPDATE journal_checkpoints SET hash = x'${'00'.repeat(32)}' WHERE seq = 10`,
    `UPDATE journal SET hash = x'${'00'.repeat(32)}' WHERE seq = 12`,
    `UPDATE journal SET payload_hash = x'${'00'.repeat(32)}' WHERE seq = 13`,
    `UPDATE journal SET actor = 'x' WHERE seq = (SELECT max(seq) FROM journal)`,
  ]
  for (const text of tampers) assert.equal((await chain.tampered((sql) => sql.run(text))).ok, false, text)

  // The chain goes on from its end, and a run that finds nothing writes nothing.
  const end = report.lastSeq
  assert.deepEqual(await chain.prune(retention), { dropped: 0, removed: 0, hours: 0 })
  await chain.add(2)
  await chain.checkpoint()
  report = await chain.verify(chain.lines.join('\n'))
  assert.deepEqual([report.ok, report.lastSeq], [true, end + 2])
})

test('retention removes no entry that is not past its time, whatever clock wrote it', async (t) => {
  const chain = await makeChain((close) => t.after(close))
  await chain.add(2)
  // Another process's clock was ten days ahead: its entry is younger than the checkpoint that follows it.
  chain.clock.now += 10 * day
  await chain.add(1)
  chain.clock.now -= 10 * day
  await chain.checkpoint()
  await chain.add(1)
  chain.clock.now += 405 * day
  await chain.add(1)
  const retention = { retentionMs: 400 * day, pullRetentionMs: 90 * day }
  assert.deepEqual(await chain.prune(retention), { dropped: 3, removed: 0, hours: 0 })
  assert.equal((await chain.verify(chain.lines.join('\n'))).ok, true)
  chain.clock.now += 10 * day
  assert.equal((await chain.prune(retention)).removed, 3)
  assert.equal((await chain.verify(chain.lines.join('\n'))).ok, true)
})

test('a retention that is stopped in the middle leaves a chain that verifies, and the next run ends it', async (t) => {
  const chain = await makeChain((close) => t.after(close))
  await chain.store.write(async (_sql, append) => {
    for (let index = 0; index < 1_100; index++)
      append({ id: randomUUID(), at: chain.clock.now, type: 'keys_rotated', actor: 'local:x', detail: '{}' })
  })
  await chain.checkpoint()
  chain.clock.now += 500 * day
  await chain.add(1)
  const stop = new AbortController()
  const store = chain.store
  let writes = 0
  const ctx = {
    ...chain.ctx,
    metadata: {
      read: store.read,
      revision: () => store.revision(),
      close: () => store.close(),
      write: async (work: Parameters<typeof store.write>[0]) => {
        const value = await store.write(work)
        if (++writes === 1) stop.abort()
        return value
      },
    },
  }
  const retention = { retentionMs: 400 * day, pullRetentionMs: 90 * day }
  const job = pruneJournal(retention)
  await job.run(ctx as unknown as Parameters<typeof job.run>[0], stop.signal)
  const between = await chain.verify()
  assert.deepEqual([between.ok, between.dropped, between.entries], [true, 500, 1_102])
  assert.equal((await chain.prune(retention)).removed, 1_100)
  assert.equal((await chain.verify(chain.lines.join('\n'))).ok, true)
})

test('a chain that grows, and that retention shortens, while it is verified is a whole one', async (t) => {
  for (const act of ['add', 'empty', 'remove'] as const)
    for (let statement = 1; ; statement++) {
      const chain = await makeChain((close) => t.after(close))
      // Two pages of the walk.
      await chain.store.write(async (_sql, append) => {
        for (let index = 0; index < 2_100; index++)
          append({ id: randomUUID(), at: chain.clock.now, type: 'keys_rotated', actor: 'local:x', detail: '{}' })
      })
      // An entry of a clock that was ahead keeps what is before it from going whole.
      if (act === 'empty') chain.clock.now += 10 * day
      await chain.add(1)
      if (act === 'empty') chain.clock.now -= 10 * day
      await chain.checkpoint()
      const retention = { retentionMs: 400 * day, pullRetentionMs: 90 * day }
      chain.clock.now += 401 * day
      await chain.add(1)
      let statements = 0
      const sql: Sql = {
        run: chain.store.read.run,
        async all(text, args) {
          if (++statements === statement) {
            if (act === 'add') await chain.add(2)
            else {
              const { dropped, removed } = (await chain.prune(retention)) as { dropped: number; removed: number }
              assert.deepEqual([dropped > 2_000, removed > 2_000], [true, act === 'remove'])
            }
          }
          return await chain.store.read.all(text, args)
        },
      }
      assert.deepEqual(what(await verifyJournal(sql, sha256)), [], `${act} before statement ${statement}`)
      if (statements < statement) break
    }
})

test('notes: equal ones are one entry, other ones are not, and each of the three ways to keep pulls', async (t) => {
  const chain = await makeChain((close) => t.after(close))
  const counts = async () =>
    await chain.store.read.all<{ type: string; actor: string; tag: string; count: number }>(
      'SELECT type, actor, tag, count FROM journal ORDER BY seq',
    )
  const event = (actor: string, tag = 'v1'): NotedEvent => ({
    type: 'manifest_pulled',
    actor,
    address: '192.0.2.1',
    repository: 'a/b',
    digest: 'sha256:x',
    tag,
  })
  for (const [pulls, expected] of [
    ['all', [3, 1, 1]],
    ['sampled', [1, 1]],
    ['none', []],
  ] as const) {
    const gather = createGather(chain.ctx, { pulls })
    const before = (await counts()).length
    for (const noted of [event('a'), event('a'), event('a'), event('a', 'v2'), event('b')]) gather.note(noted)
    await gather.flush()
    await gather.flush()
    assert.deepEqual(
      (await counts()).slice(before).map(({ count }) => count),
      expected,
      pulls,
    )
  }
  assert.equal((await chain.verify()).ok, true)
})

test('notes that could not be written are written with the next ones, and none is lost', async (t) => {
  const chain = await makeChain((close) => t.after(close))
  const gather = createGather(chain.ctx, { pulls: 'all' })
  const denied: NotedEvent = { type: 'denied', actor: 'a', address: '192.0.2.1' }
  await chain.store.write((sql) =>
    sql.run(`CREATE TRIGGER closed BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'closed'); END`),
  )
  for (let index = 0; index < 3; index++) gather.note(denied)
  gather.note({ ...denied, actor: 'b' })
  const failing = gather.flush()
  gather.note(denied)
  await assert.rejects(failing)
  await chain.store.write((sql) => sql.run('DROP TRIGGER closed'))
  await gather.flush()
  assert.deepEqual(await chain.store.read.all('SELECT actor, sum(count) AS n FROM journal GROUP BY actor ORDER BY actor'), [
    { actor: 'a', n: 4 },
    { actor: 'b', n: 1 },
  ])
})

test('a flood of different notes is counted, not kept', async (t) => {
  const chain = await makeChain((close) => t.after(close))
  const gather = createGather(chain.ctx, { pulls: 'all' })
  for (let index = 0; index < 20_500; index++) gather.note({ type: 'denied', actor: `a${index}`, address: '192.0.2.1' })
  await gather.flush()
  assert.deepEqual(await chain.store.read.all(`SELECT count(*) AS rows, sum(count) AS n FROM journal`), [
    { rows: 20_001, n: 20_500 },
  ])
  assert.deepEqual(await chain.store.read.all(`SELECT count FROM journal WHERE actor = 'many'`), [{ count: 500 }])
  assert.equal((await chain.verify()).ok, true)
})

test('verifying over the wire names the entry; the journal of everything above is one chain', async () => {
  const verify = async (body: object = {}) =>
    (await (await registry.fetch('POST', '/v1/audit/verify', json(body))).json()) as {
      ok: boolean
      entries: number
      last_seq: number
      problems: { seq: number; what: string }[]
    }
  const whole = await verify()
  assert.deepEqual([whole.ok, whole.entries], [true, whole.last_seq])
  assert.ok(whole.entries > steps.length)
  await registry.sql(`UPDATE journal SET actor = actor || 'x' WHERE seq = 3`)
  const edited = await verify()
  assert.deepEqual([edited.ok, edited.problems], [false, [{ seq: 3, what: 'the entry was edited' }]])
  await registry.sql(`UPDATE journal SET actor = substr(actor, 1, length(actor) - 1) WHERE seq = 3`)
  assert.equal((await verify({ checkpoints: 'nothing of ours' })).ok, false)
})

test('a store chains from its own head: entries given by hand are numbered after those that are there', async (t) => {
  const chain = await makeChain((close) => t.after(close))
  await chain.add(2)
  await chain.store.write(async (sql) => {
    await appendToChain(sql, [{ id: 'by-hand', at: 1, type: 'tested', actor: 'x' }], sha256)
  })
  await chain.add(1)
  const report = await chain.verify()
  assert.deepEqual([report.ok, report.lastSeq], [true, 4])
})

test('a write that comes just as the queue of commits runs empty is not forgotten', async (t) => {
  const { store } = await makeChain((close) => t.after(close))
  const nothing = async () => undefined
  // The gap was a few turns of the microtask queue wide: one write follows another by each number of them.
  for (let turns = 0; turns < 12; turns++)
    for (const first of [nothing, () => Promise.reject(new Error('mine'))]) {
      await store.write(first).catch(nothing)
      for (let turn = 0; turn < turns; turn++) await undefined
      const second = store.write(nothing).then(() => 'written')
      const late = new Promise((resolve) => setTimeout(resolve, 10_000, `forgotten, ${turns} turns after`).unref())
      const ended = await Promise.race([second, late])
      // Whoever writes next sets it going again: this test ends then, too.
      if (ended !== 'written') await store.write(nothing)
      assert.equal(ended, 'written')
    }
})

test('kill -9 while robots are made: account, rule, token and entry are there together or not at all', async (t) => {
  const killed = await startRegistry()
  t.after(() => killed.remove())
  const headers = { authorization: `Basic ${btoa(`admin:${password}`)}`, 'content-type': 'application/json' }
  const acknowledged = new Set<string>()
  const gone = new Set<string>()
  for (let round = 0; round < 6; round++) {
    let stopped = false
    const clients = Array.from({ length: 4 }, async (_, client) => {
      for (let index = 0; !stopped; index++) {
        const name = `k${round}-${client}-${index}`
        const body = JSON.stringify({ name, actions: ['registry:pull'], repositories: [`${name}/**`] })
        const made = await fetch(`${killed.url}/v1/robots`, { method: 'POST', headers, body }).catch(() => undefined)
        if (!made) return
        assert.equal(made.status, 201)
        acknowledged.add(name)
        if (index % 3 !== 0) continue
        const removed = await fetch(`${killed.url}/v1/robots/${name}`, { method: 'DELETE', headers }).catch(() => undefined)
        if (removed?.status === 204) gone.add(name)
      }
    })
    // Killed after answers, not after a time: a slow machine has as many as a fast one.
    const wanted = acknowledged.size + 30 + round * 7
    while (acknowledged.size < wanted) await new Promise((resolve) => setTimeout(resolve, 5))
    process.kill(killed.pid, 'SIGKILL')
    await Promise.all(clients)
    stopped = true
    await killed.restart()
    const rows = async (path: string) => {
      const found: { name: string; description: string; details: string }[] = []
      for (let next = ''; ; ) {
        const page = (await (await fetch(`${killed.url}${path}&after=${next}`, { headers })).json()) as Record<string, never>
        found.push(...((Object.values(page).find((value) => Array.isArray(value)) ?? []) as unknown as typeof found))
        next = (page.next as unknown as string | undefined) ?? ''
        if (next === '') return found
      }
    }
    const robots = ((await (await fetch(`${killed.url}/v1/robots`, { headers })).json()) as { robots: { name: string }[] }).robots
      .map(({ name }) => name)
      .sort()
    const accounts = (await rows('/v1/accounts?n=1000')).map(({ name }) => name).filter((name) => name.startsWith('k'))
    const rules = (await rows('/v1/policy/rules?n=1000')).map(({ description }) => description.replace('robot ', ''))
    const named = async (type: string) =>
      (await rows(`/v1/audit?n=1000&event_type=${type}`)).map(({ details }) => (JSON.parse(details) as { name: string }).name)
    const added = await named('robot_added')
    const deleted = await named('account_deleted')
    assert.equal(new Set(added).size, added.length, 'each once')
    const effects = added.filter((name) => !deleted.includes(name)).sort()
    assert.deepEqual(robots, effects)
    assert.deepEqual(accounts.sort(), effects)
    assert.deepEqual(rules.sort(), effects)
    for (const name of acknowledged) assert.ok(added.includes(name), `${name} was acknowledged`)
    for (const name of gone) assert.ok(deleted.includes(name), `${name} was deleted`)
    const report = (await (
      await fetch(`${killed.url}/v1/audit/verify`, { method: 'POST', headers, body: '{}' })
    ).json()) as JournalReport
    assert.equal(report.ok, true, JSON.stringify(report))
  }
  t.diagnostic(`${acknowledged.size} robots made, ${gone.size} deleted`)
})
