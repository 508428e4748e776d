// Backup and restore as docs/operations.md tells it. `MCR_TEST_RESTORES=50` (npm run test:restore) takes and restores that many.
import assert from 'node:assert/strict'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { ensureInstance } from '../../runtime/bootstrap.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'
import { pinFiles } from '../../runtime/snapshot/pin.ts'
import { openSnapshot, verifySnapshot } from '../../runtime/snapshot/source.ts'
import { makeAssets } from '../support/assets.ts'
import { mcr, mcrNow, pushImage, send, sha256, startLoad } from '../support/drill.ts'
import { password, type RegistryProcess, startRegistry } from '../support/process.ts'
import { damages } from '../support/storage.ts'

const restores = Number(process.env.MCR_TEST_RESTORES ?? 2)
/** Whatever no manifest needs may go at once: the hardest that a snapshot can meet. */
const noGrace = { MCR_STORAGE_GC_GRACE: '0s', MCR_STORAGE_UNDELETE_WINDOW: '0s' }
const place = mkdtempSync(join(tmpdir(), 'mcr-snapshots-'))
/** Another file system, where files cannot get a second name. */
const elsewhere = mkdtempSync(join('/dev/shm', 'mcr-snapshots-'))
after(() => {
  for (const path of [place, elsewhere]) rmSync(path, { recursive: true, force: true })
})
const json = (text: string) => JSON.parse(text) as Record<string, number & string> & { verified: Record<string, number> }
const inJson = { 'content-type': 'application/json' }

/** Collections without window or quarantine, one after another, until told to stop. Shape: how many, and the files they took. */
function collectOn(url: string) {
  const counts = { runs: 0, blobs: 0 }
  let stopped = false
  const run = (async () => {
    while (!stopped) {
      const { status } = await send(url, 'POST', '/v1/gc', '{"now":true}', inJson)
      if (status !== 202 && status !== 409) throw new Error(`gc: ${status}`)
      for (let done = false; !done; ) {
        const { running, last_run: last } = JSON.parse((await send(url, 'GET', '/v1/gc/status')).text) as {
          running: boolean
          last_run: { blobs_removed: number }
        }
        done = !running
        if (done) counts.blobs += last.blobs_removed
        else await new Promise((resolve) => setTimeout(resolve, 20))
      }
      counts.runs++
    }
  })()
  return Object.assign(counts, {
    async stop() {
      stopped = true
      await run
    },
  })
}

test(`${restores} snapshots under load and collection are restored elsewhere with nothing missing`, {
  timeout: 3_600_000,
}, async () => {
  const registry = await startRegistry({ env: noGrace })
  const loads = [startLoad(registry.url, 'a'), startLoad(registry.url, 'b')]
  const collecting = collectOn(registry.url)
  const totals = { files: 0, missing: 0, images: 0 }
  try {
    while (loads.some((load) => load.pushed < 4)) await new Promise((resolve) => setTimeout(resolve, 50))
    for (let round = 0; round < restores; round++) {
      const target = [join(place, 'backup'), join(elsewhere, 'backup'), join(place, `${round}.tar`)][round % 3] as string
      const root = join(place, `restored-${round}`)
      const before = new Map(loads.flatMap((load) => [...load.acknowledged]))
      const taken = await mcr(registry.dir, ['--json', 'snapshot', target])
      assert.equal(taken.status, 0, taken.err)
      const since = new Map(loads.flatMap((load) => [...load.acknowledged]))
      const restored = await mcr(registry.dir, ['--json', 'restore', '--verify', target, root])
      assert.equal(restored.status, 0, restored.err)
      const { verified } = json(restored.out)
      assert.deepEqual([verified.damage, verified.absent, verified.orphan], [0, 0, 0], restored.out)
      assert.equal(verified.blobs, json(taken.out).files)
      const proof = await mcr(root, ['--json', 'verify', '--deep'])
      assert.equal(proof.status, 0, proof.out)
      totals.files += json(taken.out).files ?? 0
      totals.missing += verified.damage ?? 0
      // What was acknowledged before it began, and was neither moved nor deleted before it had ended, is in it.
      const tags = await tagsOf(root)
      for (const [key, image] of before)
        if (since.get(key)?.digest === image.digest) {
          assert.equal(tags.get(key), image.digest, `${key} in round ${round}`)
          totals.images++
        }
      if (round > 0) rmSync(root, { recursive: true })
      if (target.endsWith('.tar')) rmSync(target)
    }
  } finally {
    for (const one of [...loads, collecting]) await one.stop()
    await registry.remove()
  }
  const pushed = loads.reduce((sum, load) => sum + load.pushed, 0)
  console.log(
    `${restores} restores: ${totals.files} files, ${totals.images} acknowledged images looked for, ${totals.missing} missing; beside them ${pushed} pushes, ` +
      `${loads.reduce((sum, load) => sum + load.deleted, 0)} deletes, ${collecting.runs} collections of ${collecting.blobs} blobs`,
  )
  assert.ok(collecting.blobs > 0 && totals.images > 0, 'it was under load and collection')
})

async function tagsOf(root: string): Promise<Map<string, string>> {
  const database = await openDatabaseFile(join(root, 'mcr.db'), { onFatal: () => undefined })
  const rows = await database.read.all<{ key: string; digest: string }>(
    `SELECT r.name || ':' || t.name AS key, m.digest FROM tags t JOIN repositories r ON r.id = t.repo_id JOIN manifests m ON m.id = t.manifest_id`,
  )
  await database.close()
  return new Map(rows.map(({ key, digest }) => [key, digest]))
}

test('a restored registry serves what was in it; old tokens and logins do not count, passwords and robots do', async () => {
  const registry = await startRegistry()
  const digest = await pushImage(registry.url, 'team/app', 'v1', ['its layer'])
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
  const { token } = JSON.parse((await send(registry.url, 'GET', '/v2/token?scope=repository:team/app:pull')).text) as {
    token: string
  }
  const login = JSON.parse(
    (await send(registry.url, 'POST', '/v1/auth/login', JSON.stringify({ username: 'admin', password }), inJson)).text,
  ) as { token: string }
  const robot = JSON.parse(
    (await send(registry.url, 'POST', '/v1/robots', JSON.stringify({ name: 'ci', actions: ['system:read'] }), inJson)).text,
  ) as { secret: string }
  assert.equal((await send(registry.url, 'GET', '/v2/team/app/manifests/v1', undefined, bearer(token))).status, 200)
  const upload = await send(registry.url, 'POST', '/v2/team/app/blobs/uploads/')
  const location = upload.headers.get('location') as string
  const target = join(place, 'served')
  assert.equal(mcrNow(registry.dir, ['snapshot', target]).status, 0)
  for (const [index, key] of [undefined, join(registry.dir, 'auth.key')].entries()) {
    const root = join(place, `served-${index}`)
    const restored = mcrNow(registry.dir, ['restore', '--verify', target, root, ...(key ? ['--auth-key', key] : [])])
    assert.equal(restored.status, 0, restored.err)
    const again: RegistryProcess = await startRegistry({ dir: root })
    assert.equal((await send(again.url, 'GET', '/v2/team/app/manifests/v1')).status, 200)
    assert.equal((await send(again.url, 'GET', `/v2/team/app/blobs/${sha256('its layer')}`)).text, 'its layer')
    assert.equal(
      (await send(again.url, 'GET', '/v2/team/app/manifests/v1', undefined, bearer(token))).status,
      401,
      'a token of before',
    )
    assert.equal((await send(again.url, 'GET', '/v1/status', undefined, bearer(login.token))).status, 401, 'a login of before')
    assert.equal((await send(again.url, 'GET', '/v1/status', undefined, bearer(robot.secret))).status, 200, 'a robot')
    assert.equal((await send(again.url, 'GET', location)).status, 404, 'an upload of before')
    const chain = JSON.parse((await send(again.url, 'POST', '/v1/audit/verify', '{}', inJson)).text) as { ok: boolean }
    assert.equal(chain.ok, true)
    const { events } = JSON.parse((await send(again.url, 'GET', '/v1/audit?event_type=restored')).text) as { events: unknown[] }
    assert.equal(events.length, 1)
    await pushImage(again.url, 'team/app', 'v2', ['pushed after'])
    await again.stop()
  }
  assert.equal(digest.length, 71)
  await registry.remove()
})

test('a snapshot that goes while it is verified is not called damaged', async () => {
  const registry = await startRegistry({ env: noGrace })
  const target = join(place, 'going')
  const layers = ['one', 'two', 'three']
  await pushImage(registry.url, 'going/app', 'v1', layers)
  assert.equal(mcrNow(registry.dir, ['snapshot', target]).status, 0)
  const source = await openSnapshot(target, {})
  let looked = 0
  const slowly = {
    ...source,
    async *files() {
      for await (const file of source.files()) {
        // Between two files the image goes, and the next snapshot takes this one's place.
        if (looked++ === 1) {
          assert.equal((await send(registry.url, 'DELETE', '/v1/repositories/going/app')).status, 200)
          const collecting = collectOn(registry.url)
          while (collecting.blobs < 4) await new Promise((resolve) => setTimeout(resolve, 20))
          await collecting.stop()
          assert.equal(mcrNow(registry.dir, ['snapshot', target, '--keep', '1']).status, 0)
        }
        yield file
      }
    },
  }
  await assert.rejects(
    verifySnapshot(slowly, { deep: true }, () => undefined),
    (error: Error & { damaged?: number }) => {
      assert.match(error.message, /was taken away while it was looked at/)
      return error.damaged === undefined
    },
  )
  await registry.remove()
})

test('a snapshot takes only what is new, keeps as many as wanted, and loses files with the last that names them', async () => {
  const registry = await startRegistry({ env: noGrace })
  const target = join(elsewhere, 'few')
  const take = (...more: string[]) => json(mcrNow(registry.dir, ['--json', 'snapshot', target, ...more]).out)
  await pushImage(registry.url, 'few/app', 'v1', ['first'])
  const first = take()
  assert.deepEqual([first.files, first.copied, first.linked], [2, 2, 0])
  const digest = await pushImage(registry.url, 'few/app', 'v1', ['second'])
  const second = take()
  assert.deepEqual([second.files, second.copied], [3, 1])
  const same = json(mcrNow(registry.dir, ['--json', 'snapshot', join(registry.dir, 'near')]).out)
  assert.deepEqual([same.linked, same.copied], [3, 0], 'on one file system files get a second name')
  // The first layer's image is deleted and collected here; its file stays there while a snapshot names it.
  const [manifest] = [...(await tagsOf(registry.dir)).values()]
  assert.equal(manifest, digest)
  const stored = () => readdirSync(join(target, 'blobs'), { recursive: true }).filter((name) => `${name}`.includes('.')).length
  assert.equal(stored(), 3)
  const old = JSON.parse((await send(registry.url, 'GET', '/v2/few/app/tags/list')).text) as { tags: string[] }
  assert.deepEqual(old.tags, ['v1'])
  await send(registry.url, 'DELETE', `/v2/few/app/manifests/${digest}`)
  const collecting = collectOn(registry.url)
  while (collecting.blobs === 0) await new Promise((resolve) => setTimeout(resolve, 50))
  await collecting.stop()
  take()
  assert.equal(stored(), 3, 'older snapshots name it')
  const third = take('--keep', '1')
  assert.equal(readdirSync(join(target, 'snapshots')).length, 1)
  assert.equal(stored(), third.files)
  await registry.remove()
})

test('everything that can be wrong with a snapshot is found before anything is restored', async () => {
  const registry = await startRegistry()
  await pushImage(registry.url, 'wrong/app', 'v1', ['a layer that is long enough to be damaged'])
  const whole = join(elsewhere, 'whole')
  assert.equal(mcrNow(registry.dir, ['snapshot', whole]).status, 0)
  await registry.remove()
  const [id] = readdirSync(join(whole, 'snapshots')) as [string]
  const hex = sha256('a layer that is long enough to be damaged').slice(7)
  const check = async (root: string, deep: boolean, signedBy?: string) => {
    await verifySnapshot(await openSnapshot(root, { signedBy }), { deep }, () => undefined)
  }
  await check(whole, true)
  await assert.rejects(check(whole, false, 'ab'.repeat(32)), /is signed by [0-9a-f]{64}, not by abab/)
  const edit = (path: string, from: string, to: string) => writeFileSync(path, readFileSync(path, 'utf8').replace(from, to))
  const cases: [name: string, expected: RegExp, damage: (root: string) => void][] = [
    ...Object.entries(damages).map(([how, damage]): (typeof cases)[0] => [
      `a ${how} file`,
      how === 'flipped' || how === 'zeroed' ? /has other bytes/ : /is missing or has another size/,
      (root) => {
        const shard = join(root, 'blobs/sha256', hex.slice(0, 2))
        damage(join(shard, readdirSync(shard)[0] as string))
      },
    ]),
    ['another list', /files\.txt is not the one/, (root) => edit(join(root, 'snapshots', id, 'files.txt'), '\n', ' damaged\n')],
    ['another database', /database\.db is not the one/, (root) => damages.flipped(join(root, 'snapshots', id, 'database.db'))],
    [
      'another description',
      /signature is not of this/,
      (root) => edit(join(root, 'snapshots', id, 'snapshot.json'), '"count": 2', '"count": 1'),
    ],
    [
      'another key',
      /signature is not of this/,
      (root) => edit(join(root, 'snapshots', id, 'snapshot.sig'), '"public_key": "', '"public_key": "A'),
    ],
  ]
  for (const [name, expected, damage] of cases) {
    const root = join(elsewhere, 'damaged')
    copyTree(whole, root)
    damage(root)
    await assert.rejects(check(root, true), expected, name)
    if (name === 'a flipped file') {
      const restored = mcrNow(elsewhere, ['restore', '--verify', root, join(elsewhere, 'never')])
      assert.equal(restored.status, 7)
      assert.match(restored.err, /has other bytes: remove it, and the next snapshot brings it anew/)
      assert.ok(!existsSync(join(elsewhere, 'never')))
    }
    rmSync(root, { recursive: true })
  }
  mkdirSync(join(elsewhere, 'full'))
  writeFileSync(join(elsewhere, 'full/something'), '')
  const refused = mcrNow(elsewhere, ['restore', '--verify', whole, join(elsewhere, 'full')])
  assert.equal(refused.status, 1)
  assert.match(refused.err, /is not empty \(it has something\): restore into a directory of its own/)
})

function copyTree(from: string, to: string): void {
  mkdirSync(to, { recursive: true })
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    if (entry.isDirectory()) copyTree(join(from, entry.name), join(to, entry.name))
    else copyFileSync(join(from, entry.name), join(to, entry.name))
  }
}

test('a pin is renewed as the epoch moves, and one that ended makes the snapshot fail', async () => {
  const path = join(place, 'pin.db')
  const database = await openDatabaseFile(path, { onFatal: () => undefined })
  await migrate(database, makeAssets({}).migrations)
  await ensureInstance(database, Date.now())
  const move = (by: number) => database.write((sql) => sql.run(`UPDATE instance SET epoch = epoch + ?`, [by]))
  const pin = await pinFiles(database, 'one', Date.now())
  for (let at = 0; at < 3; at++) {
    await move(1)
    await pin.check()
  }
  await move(2)
  await assert.rejects(pin.check(), /the hold on the files ended while they were copied/)
  await pin.remove()
  const gone = await pinFiles(database, 'two', Date.now())
  await database.write((sql) => sql.run(`DELETE FROM gc_pins`))
  await assert.rejects(gone.check(), /the hold on the files ended/)
  await gone.remove()
  assert.deepEqual(await database.read.all('SELECT * FROM gc_pins'), [])
  await database.close()
})

test('a database that is older than its blobs is refused, by the server and on its host, unless that is accepted', async () => {
  const registry = await startRegistry({ env: noGrace })
  const { dir } = registry
  await pushImage(registry.url, 'old/app', 'v1', ['goes'])
  await registry.stop()
  const old = join(place, 'old.db')
  for (const ending of ['', '-wal'])
    if (existsSync(join(dir, `mcr.db${ending}`))) copyFileSync(join(dir, `mcr.db${ending}`), `${old}${ending}`)
  await registry.restart()
  await send(registry.url, 'DELETE', `/v2/old/app/manifests/${(await tagsOf(dir)).get('old/app:v1')}`)
  const collecting = collectOn(registry.url)
  while (!readdirSync(join(dir, 'blobs')).some((name) => name.startsWith('.mcr-reaped.')))
    await new Promise((resolve) => setTimeout(resolve, 50))
  await collecting.stop()
  await registry.stop()
  for (const ending of ['', '-wal', '-shm']) {
    rmSync(join(dir, `mcr.db${ending}`), { force: true })
    if (existsSync(`${old}${ending}`)) copyFileSync(`${old}${ending}`, join(dir, `mcr.db${ending}`))
  }
  chmodSync(join(dir, 'mcr.db'), 0o600)
  for (const args of [
    ['serve', '--listen', '127.0.0.1:0'],
    ['gc', 'run'],
  ]) {
    const refused = mcrNow(dir, args)
    assert.equal(refused.status, 1, args.join(' '))
    assert.match(refused.err, /is older than the blobs in .*: it counts \d+ removals of files, and \d+ happened there/)
    assert.match(refused.err, /mcr serve --accept-rollback, then mcr verify/)
  }
  const accepted = await startRegistry({ dir, env: noGrace, args: ['--accept-rollback'] })
  await accepted.stop()
  const proof = mcrNow(dir, ['verify'])
  assert.equal(proof.status, 7)
  assert.match(proof.out, new RegExp(`blob_missing ${sha256('goes')} in old/app`))
  const again = await startRegistry({ dir, env: noGrace })
  await again.remove()
})
