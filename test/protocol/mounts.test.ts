// What a process of a split registry opens, and what it is refused. Runs the build.
import assert from 'node:assert/strict'
import { type ChildProcess, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'
import { loadHandlers, makeAssets } from '../support/assets.ts'
import { sha256 } from '../support/oci.ts'
import { listeningPort, password, spawnRegistry } from '../support/process.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-mounts-'))
const children: ChildProcess[] = []
after(async () => {
  for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
  rmSync(scratch, { recursive: true, force: true })
})
let count = 0
const fresh = () => {
  const root = join(scratch, `root-${++count}`)
  mkdirSync(root, { mode: 0o700 })
  return root
}
const settings = (root: string, more: Record<string, string> = {}) => ({
  MCR_STORAGE_ROOT: root,
  MCR_STORAGE_FREE_FLOOR: '0',
  MCR_AUTH_BOOTSTRAP_PASSWORD: password,
  MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
  ...more,
})
async function start(mount: string, env: Record<string, string>, onLog?: (line: string) => void) {
  const child = spawnRegistry(['--mount', mount], env)
  children.push(child)
  if (onLog) for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => onLog(String(chunk)))
  return {
    pid: child.pid as number,
    url: `http://127.0.0.1:${await listeningPort(child)}`,
    async stop() {
      child.kill('SIGTERM')
      if (child.exitCode === null) await once(child, 'exit')
    },
  }
}
const basic = { authorization: `Basic ${btoa(`admin:${password}`)}` }
const openFiles = (pid: number) =>
  readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)]
    } catch {
      return []
    }
  })

test('a process that gives tokens has no blob directory, and one that moves blobs says who needs it', async () => {
  const root = fresh()
  // A file where the directory would be: whoever wants it fails, whatever rights it has.
  const nowhere = join(root, 'no-directory')
  writeFileSync(nowhere, '')
  const env = settings(root, {
    MCR_STORAGE_LAYERS_PATH: join(nowhere, 'blobs'),
    MCR_STORAGE_UPLOADS_PATH: join(nowhere, 'uploads'),
  })
  const auth = await start('auth', env)
  const answer = await fetch(`${auth.url}/v2/token?scope=repository:a/b:pull,push`, { headers: basic })
  assert.equal(answer.status, 200)
  assert.equal((await fetch(`${auth.url}/readyz`)).status, 200)
  assert.equal((await fetch(`${auth.url}/v2/a/b/manifests/v1`, { headers: basic })).status, 421)
  assert.ok(openFiles(auth.pid).some((file) => file.endsWith('mcr.db')))
  assert.deepEqual(
    openFiles(auth.pid).filter((file) => file.includes('blobs') || file.includes('uploads')),
    [],
  )
  const push = spawnSync(process.execPath, ['dist/mcr.cjs', 'serve', '--mount', 'push'], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, ...env },
  })
  assert.equal(push.status, 1)
  assert.match(push.stderr, /ENOTDIR.*needed here for POST \/v2\/:name\+\/blobs\/uploads\//)
  await auth.stop()
})

test('only what signs reads the key, and a process without it works where the key cannot be read', async () => {
  const root = fresh()
  const auth = await start('auth', settings(root))
  const token = (
    (await (await fetch(`${auth.url}/v2/token?scope=repository:k/x:pull,push`, { headers: basic })).json()) as { token: string }
  ).token
  // Its place is taken by a directory: reading it fails for everybody.
  renameSync(join(root, 'auth.key'), join(root, 'kept'))
  mkdirSync(join(root, 'auth.key'), { mode: 0o700 })
  const push = await start('push', settings(root))
  const content = 'a blob'
  const put = await fetch(`${push.url}/v2/k/x/blobs/uploads/?digest=${sha256(content)}`, {
    method: 'POST',
    body: content,
    headers: { authorization: `Bearer ${token}` },
  })
  assert.equal(put.status, 201, await put.text())
  const pull = await start('pull', settings(root))
  const got = await fetch(`${pull.url}/v2/k/x/blobs/${sha256(content)}`, { headers: { authorization: `Bearer ${token}` } })
  assert.equal(await got.text(), content)
  // Damage that it meets is among the little that a process of reads may write.
  const shard = join(root, 'blobs/sha256', sha256(content).slice(7, 9))
  rmSync(shard, { recursive: true })
  const damaged = await fetch(`${pull.url}/v2/k/x/blobs/${sha256(content)}`, { headers: { authorization: `Bearer ${token}` } })
  assert.equal(damaged.status, 404, await damaged.text())
  const admin = await start('admin', settings(root))
  assert.equal((await fetch(`${admin.url}/v1/status`, { headers: basic })).status, 200)
  const again = spawnSync(process.execPath, ['dist/mcr.cjs', 'serve', '--mount', 'auth'], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, ...settings(root) },
  })
  assert.equal(again.status, 1)
  assert.match(again.stderr, /needed here for GET \/v2\/token/)
  for (const process of [auth, push, pull, admin]) await process.stop()
})

test('a process that only reads waits for what it reads, makes nothing, and answers once another has made it', async () => {
  const root = fresh()
  const pulling = start('pull', settings(root))
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  assert.deepEqual(readdirSync(root), [])
  const push = await start('push', settings(root))
  const pull = await pulling
  assert.equal((await fetch(`${pull.url}/readyz`)).status, 200)
  assert.ok(!existsSync(join(root, 'auth.key')))
  await pull.stop()
  await push.stop()
})

test('each list opens what the documentation says', async () => {
  const table = readFileSync('docs/processes.md', 'utf8').matchAll(/^\| `(\w+)` \| .* \| (.*) \| (.*) \| (.*) \|$/gm)
  const words = { 'read and write': 'write', read: 'read', none: 'nothing' } as Record<string, string>
  const root = fresh()
  const all = await start('all', settings(root))
  let lists = 0
  for (const [, list, database, blobs, key] of table) {
    let log = ''
    const one = await start(list as string, settings(root), (text) => {
      log += text
    })
    const {
      event: _,
      level: __,
      time: ___,
      identities: ____,
      ...opened
    } = JSON.parse(/^.*"event":"opened".*$/m.exec(log)?.[0] ?? '{}')
    const said = { database: database === 'marks' ? 'marks' : 'anything', blobs: words[blobs as string], auth_key: key === 'yes' }
    assert.deepEqual([list, opened], [list, said])
    await one.stop()
    lists++
  }
  assert.equal(lists, 6)
  await all.stop()
})

test('the list `jobs` makes a reserve anew that was emptied, without which pushes are refused', async () => {
  const root = fresh()
  writeFileSync(join(root, 'ballast'), '')
  const split = settings(root, { MCR_STORAGE_BALLAST: '1MiB' })
  const auth = await start('auth', split)
  const uploads = await start('uploads', split)
  const begin = async () => (await fetch(`${uploads.url}/v2/a/b/blobs/uploads/`, { method: 'POST', headers: basic })).status
  assert.equal(await begin(), 507)
  const jobs = await start('jobs', split)
  for (let wait = 0; statSync(join(root, 'ballast')).size === 0; wait++) {
    assert.ok(wait < 100, 'no ballast')
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  assert.equal(await begin(), 202)
  for (const process of [auth, uploads, jobs]) await process.stop()
})

test('lists are joined by commas; an unknown one is named, with those there are', async () => {
  const unknown = spawnSync(process.execPath, ['dist/mcr.cjs', 'serve', '--mount', 'pull,pul'], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, ...settings(fresh()) },
  })
  assert.equal(unknown.status, 1)
  assert.match(unknown.stderr, /no mount list is called pul: there are admin, all, auth/)
  const both = await start('auth,push', settings(fresh()))
  assert.equal((await fetch(`${both.url}/v2/token`, { headers: basic })).status, 200)
  assert.equal((await fetch(`${both.url}/v2/a/b/blobs/uploads/`, { method: 'POST', headers: basic })).status, 202)
  assert.equal((await fetch(`${both.url}/v2/a/b/tags/list`, { headers: basic })).status, 421)
  await both.stop()
})

test('SQLite itself refuses a process of reads everything but epochs, damage, counters and the journal', async () => {
  const root = fresh()
  const path = join(root, 'mcr.db')
  const handlers = await loadHandlers()
  const onFatal = (error: Error) => assert.fail(error)
  const whole = await openDatabaseFile(path, { onFatal })
  await migrate(whole, makeAssets(handlers).migrations)
  const digest = sha256('x')
  const rows: [string, (string | number | null)[]?][] = [
    [`INSERT INTO instance(id, name, created_at) VALUES (1, 'test', 0)`],
    [`INSERT INTO repositories(id, name, visible, created_at) VALUES (1, 'a', 1, 0)`],
    [`INSERT INTO blobs(digest, inc, size, epoch) VALUES (?, 'i', 1, 1)`, [digest]],
    [`INSERT INTO repo_blobs(repo_id, digest, epoch) VALUES (1, ?, 1)`, [digest]],
    [`INSERT INTO manifests(id, repo_id, digest, media_type, size, created_at, epoch) VALUES (1, 1, 'm', 't', 1, 0, 1)`],
    [`INSERT INTO accounts(id, subject, name, kind, created_at) VALUES (1, 's', 'n', 'human', 0)`],
    [`INSERT INTO credentials(id, account_id, kind, secret, created_at) VALUES (1, 1, 'login', 'h', 0)`],
  ]
  await whole.write(async (sql) => {
    for (const [text, args] of rows) await sql.run(text, args)
  })
  const tables = await whole.read.all<{ name: string }>(
    `SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%'`,
  )
  const marks = await openDatabaseFile(path, { onFatal, writes: 'marks' })
  const outcome = async (text: string) => {
    try {
      await marks.write((sql) => sql.run(text))
      return 'written'
    } catch (error) {
      return (error as Error).message.includes('this process serves reads') ? 'refused' : (error as Error).message
    }
  }
  for (const text of [
    `UPDATE repo_blobs SET epoch = 2 WHERE repo_id = 1`,
    `UPDATE manifests SET epoch = 2 WHERE id = 1`,
    `UPDATE credentials SET last_used_at = 9 WHERE id = 1`,
    `UPDATE blobs SET state = 1`,
    `INSERT INTO login_failures(bucket, count, window_ends_at) VALUES ('b', 1, 1)`,
    `DELETE FROM login_failures`,
    `INSERT INTO decisions(hour, subject, kind, roles, action, repository, tag, address, allowed, rule_id, count, last_at) VALUES (1,'','','','','','','',1,0,1,1)`,
  ])
    assert.equal(await outcome(text), 'written', text)
  await marks.write(async (_sql, append) => append({ id: 'e', at: 0, type: 'login', actor: 'x' }))
  for (const text of [
    `UPDATE blobs SET state = 0`,
    `UPDATE blobs SET inc = 'other'`,
    `UPDATE blobs SET size = 2, state = 1`,
    `UPDATE repo_blobs SET hidden_epoch = 1`,
    `UPDATE manifests SET deleted_epoch = 1`,
    `UPDATE manifests SET epoch = 3, digest = 'n'`,
    `UPDATE credentials SET secret = 'mine'`,
    `UPDATE accounts SET roles = '["admin"]'`,
    `UPDATE journal SET actor = 'nobody'`,
    `DELETE FROM journal`,
    `INSERT INTO tags(repo_id, name, manifest_id, updated_at) VALUES (1, 't', 1, 0)`,
    `INSERT INTO policy_rules(priority, rule, created_at, updated_at) VALUES (1, '{}', 0, 0)`,
    `INSERT OR REPLACE INTO blobs(digest, inc, size, epoch) VALUES ('d', 'j', 1, 1)`,
    `WITH one AS (SELECT 1) UPDATE blobs SET size = 0`,
    `WITH one AS (SELECT 1) DELETE FROM accounts`,
    `DROP TABLE tags`,
    `DROP TRIGGER guard_tags_insert`,
    `CREATE TABLE mine (a)`,
    `ATTACH ':memory:' AS other`,
    `PRAGMA wal_autocheckpoint = 1000`,
  ])
    assert.equal(await outcome(text), 'refused', text)
  // A table without rows has nothing to refuse yet: each has its guards nevertheless.
  const guards = await marks.write((sql) => sql.all<{ name: string }>(`SELECT name FROM sqlite_temp_schema ORDER BY name`))
  for (const { name } of tables) {
    const has = (kind: string) => guards.some((guard) => guard.name === `guard_${name}_${kind}`)
    assert.deepEqual(
      [name, has('insert'), has('update'), has('delete')],
      [name, !['journal', 'decisions', 'login_failures'].includes(name), name !== 'login_failures', name !== 'login_failures'],
    )
  }
  assert.deepEqual(await whole.read.all(`SELECT size, state, inc FROM blobs`), [{ size: 1, state: 1, inc: 'i' }])
  await marks.close()
  await whole.close()
})
