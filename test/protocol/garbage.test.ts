import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { admin } from '../matrix/columns.ts'
import { emptyJson, ociIndex, ociManifest, pushBlob, pushImage, putManifest, sha256 } from '../support/oci.ts'
import { type TestRegistry, testRegistry } from '../support/registry.ts'

const registry = await testRegistry({}, ['collect-garbage'])
const filesOf = (digest: string) =>
  readdirSync(join(registry.root, 'blobs'), { recursive: true }).filter((name) => String(name).includes(digest.slice(7))).length

/** Time that passes for the registry: epochs, which last a day. */
const pass = async (epochs: number) => await registry.sql('UPDATE instance SET epoch = epoch + ?', [epochs])

interface Run {
  id: string
  completed_at?: string
  manifests_removed: number
  blobs_removed: number
  bytes_freed: number
  orphans_removed: number
  files_removed: number
  file_bytes_freed: number
  uploads_expired: number
  error: string
}

const collect = async (options: { dry_run?: boolean; now?: boolean; full?: boolean } = {}, path = '/v1/gc') =>
  await collectOf(registry, options, path)
async function collectOf(
  of: TestRegistry,
  options: { dry_run?: boolean; now?: boolean; full?: boolean } = {},
  path = '/v1/gc',
): Promise<Run> {
  const { id } = (await admin(of, 'POST', path, options)) as unknown as { id: string }
  return await settled(id, of)
}
async function settled(id: string, of = registry): Promise<Run> {
  for (let wait = 0; wait < 400; wait++) {
    const status = (await admin(of, 'GET', '/v1/gc/status')) as unknown as { running: boolean; last_run: Run }
    if (status.last_run.id === id && !status.running) {
      assert.equal(status.last_run.error, '')
      return status.last_run
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('the collection did not end')
}
const get = async (path: string) => (await registry.fetch('GET', path)).status

test('a layer whose image was deleted stays for the window and goes after it; what another image needs stays', async () => {
  const shared = 'a layer of both'
  const own = 'a layer of one'
  await pushImage(registry, 'gc/app', 'keep', { layers: [shared] })
  const { digest } = await pushImage(registry, 'gc/app', 'drop', { layers: [shared, own] })
  assert.equal((await registry.fetch('DELETE', `/v2/gc/app/manifests/${digest}`)).status, 202)
  await pass(3)
  await collect()
  assert.equal(filesOf(sha256(own)), 1, 'in the window')
  await pass(10)
  const foreseen = await collect({ dry_run: true })
  assert.equal(filesOf(sha256(own)), 1, 'a dry run takes nothing')
  const run = await collect()
  assert.deepEqual([run.manifests_removed, run.blobs_removed, run.bytes_freed], [1, 1, own.length])
  assert.deepEqual([foreseen.manifests_removed, foreseen.blobs_removed, foreseen.bytes_freed], [1, 1, own.length], 'as foreseen')
  assert.equal(await get(`/v2/gc/app/blobs/${sha256(own)}`), 404)
  assert.equal(await get(`/v2/gc/app/blobs/${sha256(shared)}`), 200)
  assert.equal(await get('/v2/gc/app/manifests/keep'), 200)
})

test('--now takes at once what was deleted, and never what was pushed just now', async () => {
  const old = 'deleted a moment ago'
  const { digest } = await pushImage(registry, 'gc/now', 'v1', { layers: [old] })
  await pass(2)
  const fresh = await pushBlob(registry, 'gc/now', 'pushed, its manifest is still to come')
  await registry.fetch('DELETE', `/v2/gc/now/manifests/${digest}`)
  await collect({ now: true })
  assert.equal(filesOf(sha256(old)), 0)
  assert.equal(await get(`/v2/gc/now/blobs/${fresh}`), 200)
})

test('a blob that a push was told is there outlives a collection', async () => {
  const layer = await pushBlob(registry, 'gc/head', 'cold and wanted')
  await pass(5)
  assert.equal((await registry.fetch('HEAD', `/v2/gc/head/blobs/${layer}`)).status, 200)
  await collect({ now: true })
  await pushImage(registry, 'gc/head', 'v1', { layers: ['cold and wanted'] })
  await pass(5)
  await collect({ now: true })
  assert.equal(await get(`/v2/gc/head/blobs/${layer}`), 200)
})

test('what is deleted and pushed again within the window is whole', async () => {
  const { digest, text } = await pushImage(registry, 'gc/again', 'v1', { layers: ['comes back'] })
  await registry.fetch('DELETE', `/v2/gc/again/manifests/${digest}`)
  await pass(3)
  await collect()
  const again = await registry.fetch('PUT', '/v2/gc/again/manifests/v1', {
    body: text,
    headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
  })
  assert.equal(again.status, 201)
  await pass(12)
  await collect({ now: true })
  assert.equal(await get(`/v2/gc/again/blobs/${sha256('comes back')}`), 200)
})

test('a deleted repository gives its space back, and its name at once', async () => {
  await pushImage(registry, 'gc/gone', 'v1', { layers: ['only in the repository that goes'] })
  await registry.fetch('POST', '/v2/gc/gone/blobs/uploads/')
  const answer = (await admin(registry, 'DELETE', '/v1/repositories/gc/gone')) as unknown as {
    released: number
    tags_deleted: number
  }
  assert.deepEqual([answer.released, answer.tags_deleted], ['only in the repository that goes'.length, 1])
  assert.equal(await get('/v2/gc/gone/manifests/v1'), 404)
  await pushImage(registry, 'gc/gone', 'v2', { layers: ['new under the old name'] })
  await pass(12)
  await collect({ now: true })
  assert.equal(filesOf(sha256('only in the repository that goes')), 0)
  assert.equal(await get('/v2/gc/gone/manifests/v2'), 200)
  const left = await registry.database.read.all('SELECT id FROM repositories WHERE deleted_epoch IS NOT NULL')
  assert.equal(left.length, 0)
})

test('reconciling removes files that no row names, and no other: not of uploads under way, not of blobs', async () => {
  const kept = await pushBlob(registry, 'gc/files', 'a blob with a row')
  const { headers } = await registry.fetch('POST', '/v2/gc/files/blobs/uploads/')
  const location = headers.get('location') as string
  assert.equal((await registry.fetch('PATCH', location, { body: 'a segment of an upload' })).status, 202)
  const hex = sha256('nobody').slice(7)
  const [row] = await registry.database.read.all<{ inc: string }>('SELECT inc FROM blobs WHERE digest = ?', [kept])
  const inc = row?.inc
  const stray = [
    `blobs/sha256/${hex.slice(0, 2)}/${hex}.00000000-0000-4000-8000-000000000000`,
    // The right digest of a blob that is there, by an upload that never was.
    `blobs/sha256/${kept.slice(7, 9)}/${kept.slice(7)}.00000000-0000-4000-8000-000000000001`,
    'uploads/00000000-0000-4000-8000-000000000002.00000000-0000-4000-8000-000000000003',
    // What an upload left behind that ended as a blob, under its own incarnation.
    `blobs/sha256/${hex.slice(0, 2)}/${hex}.${inc}`,
    `uploads/${inc}.00000000-0000-4000-8000-000000000004`,
  ].map((path) => join(registry.root, path))
  for (const path of stray) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, 'stray')
  }
  const weight = (run: Run) => [run.orphans_removed, run.files_removed, run.file_bytes_freed]
  assert.deepEqual(weight(await collect({ dry_run: true }, '/v1/gc/reconcile')), [5, 5, 5 * 'stray'.length])
  assert.deepEqual(weight(await collect({ dry_run: true, full: true })).slice(0, 1), [5])
  assert.ok(stray.every((path) => existsSync(path)))
  assert.deepEqual(weight(await collect({}, '/v1/gc/reconcile')), [5, 5, 5 * 'stray'.length])
  assert.ok(!stray.some((path) => existsSync(path)))
  assert.equal(await get(`/v2/gc/files/blobs/${kept}`), 200)
  const digest = sha256('a segment of an upload')
  assert.equal((await registry.fetch('PUT', `${location}?digest=${digest}`)).status, 201)
})

test('one collection at a time: a second one is 409 and says where to look', async () => {
  await registry.sql(
    `INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window, state, beat_at) VALUES ('x', 'collect', ?, 'test', 0, 0, 'running', ?)`,
    [Date.now(), Date.now()],
  )
  const response = await registry.fetch('POST', '/v1/gc', { body: '{}', headers: { 'content-type': 'application/json' } })
  assert.equal(response.status, 409)
  assert.match(await response.text(), /gc status/)
  // Its process is not heard of any more: another one takes it over and ends it.
  await registry.sql(`UPDATE gc_runs SET beat_at = 1 WHERE id = 'x'`)
  const run = await settled('x')
  assert.deepEqual([run.id, run.error], ['x', ''])
})

test('without grace everything that nothing needs goes at once, files too, run after run', async (t) => {
  const bare = await testRegistry({ MCR_STORAGE_GC_GRACE: '0s', MCR_STORAGE_UNDELETE_WINDOW: '0s' }, ['collect-garbage'])
  const files = () =>
    readdirSync(join(bare.root, 'blobs'), { recursive: true }).filter((name) => /[0-9a-f]{64}\./.test(String(name))).length
  const before = files()
  const loose = await pushBlob(bare, 'bare/app', 'nothing needs this')
  const { digest } = await pushImage(bare, 'bare/app', 'v1', { layers: ['a layer'] })
  await collectOf(bare)
  assert.equal((await bare.fetch('GET', `/v2/bare/app/blobs/${loose}`)).status, 404)
  assert.equal((await bare.fetch('GET', '/v2/bare/app/manifests/v1')).status, 200)
  assert.equal(files(), before + 2, 'config and layer')
  await bare.fetch('DELETE', `/v2/bare/app/manifests/${digest}`)
  const started = Date.now()
  for (let round = 0; round < 5; round++) await collectOf(bare)
  t.diagnostic(`5 collections took ${Date.now() - started} ms`)
  assert.equal(files(), before, 'no file is left')
  const [state] = await bare.database.read.all<{ seq: number }>('SELECT reap_seq AS seq FROM instance')
  assert.ok((state?.seq ?? 0) > 0)
  assert.ok(existsSync(join(bare.root, `blobs/.mcr-reaped.${state?.seq}`)), 'how far files went is beside them')
})

test('a clock that leaps ends no upload that is under way; one that is old by epochs and by the clock goes', async () => {
  const start = async () => (await registry.fetch('POST', '/v2/gc/clock/blobs/uploads/')).headers.get('location') as string
  const location = await start()
  await registry.sql(`UPDATE uploads SET touched_at = 1`)
  await collect()
  assert.equal((await registry.fetch('PATCH', location, { body: 'goes on' })).status, 202)
  const { uploads_expired: before } = await collect()
  assert.equal(before, 0)
  await registry.sql(`UPDATE uploads SET touched_at = 1`)
  await pass(2)
  const { uploads_expired: after } = await collect()
  assert.ok(after >= 1)
  assert.equal(await get(location), 404)
})

test('a clock that was set back keeps no upload for ever, and no claim of a finisher that died', async () => {
  const start = async () => (await registry.fetch('POST', '/v2/gc/back/blobs/uploads/')).headers.get('location') as string
  const [left, claimed] = [await start(), await start()]
  await registry.sql(`UPDATE uploads SET touched_at = ?`, [Date.now() + 3_650 * 86_400_000])
  await collect()
  assert.equal(await get(left), 204, 'its epoch is warm')
  await registry.sql(`UPDATE uploads SET state = 'finishing', owner = 'dead'`)
  assert.equal((await registry.fetch('PATCH', claimed, { body: 'goes on' })).status, 202)
  await registry.sql(`UPDATE uploads SET state = 'finishing', owner = 'dead', touched_at = ?`, [Date.now() + 5_000])
  assert.equal((await registry.fetch('PATCH', claimed, { body: 'another clock is a little ahead' })).status, 416)
  await registry.sql(`UPDATE uploads SET touched_at = ?`, [Date.now() + 3_650 * 86_400_000])
  await pass(2)
  const { uploads_expired: expired } = await collect()
  assert.ok(expired >= 2)
  for (const location of [left, claimed]) assert.equal(await get(location), 404)
})

test('while a pin holds no file goes; two epochs later it is over', async () => {
  const digest = await pushBlob(registry, 'gc/pinned', 'copied by a backup')
  await pass(3)
  await registry.sql(`INSERT INTO gc_pins(id, epoch, made_at) SELECT 'backup', epoch, 0 FROM instance`)
  await collect({ now: true })
  assert.equal(await get(`/v2/gc/pinned/blobs/${digest}`), 404)
  const stray = join(registry.root, 'uploads/00000000-0000-4000-8000-00000000000a.00000000-0000-4000-8000-00000000000b')
  writeFileSync(stray, 'stray')
  await collect({}, '/v1/gc/reconcile')
  assert.equal(filesOf(digest), 1, 'pinned')
  assert.ok(existsSync(stray), 'pinned')
  await pass(2)
  await collect({ now: true })
  await collect({}, '/v1/gc/reconcile')
  assert.equal(filesOf(digest), 0)
  assert.ok(!existsSync(stray))
  await registry.sql('DELETE FROM gc_pins')
})

test('a blob that a push was told is there outlives the image that held it then', async () => {
  const { digest, text } = await pushImage(registry, 'gc/held', 'v1', { layers: ['held by an image that goes'] })
  await pass(5)
  assert.equal((await registry.fetch('HEAD', `/v2/gc/held/blobs/${sha256('held by an image that goes')}`)).status, 200)
  await pass(1)
  await registry.fetch('DELETE', `/v2/gc/held/manifests/${digest}`)
  assert.equal((await collect({ now: true })).manifests_removed, 1)
  const again = JSON.stringify({ ...JSON.parse(text), config: JSON.parse(text).layers[0], annotations: { built: 'again' } })
  assert.equal((await putManifest(registry, 'gc/held', 'v2', again)).status, 201)
})

/** As clients push: what HEAD says is there is not sent. */
async function pushUnlessThere(name: string, tag: string, layers: string[]): Promise<Response> {
  for (const content of ['{}', ...layers]) {
    const head = await registry.fetch('HEAD', `/v2/${name}/blobs/${sha256(content)}`)
    if (head.status !== 200) await pushBlob(registry, name, content)
  }
  const described = layers.map((content) => ({
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    digest: sha256(content),
    size: content.length,
  }))
  const text = JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: emptyJson, layers: described })
  return await putManifest(registry, name, tag, text)
}

test('pushes go on while garbage is collected: none is refused, nothing that was acknowledged is missing', async () => {
  // A push counts on what it was told for an epoch at least. So one epoch passes while a push is under way, and no second one, however long
  // it takes: a manifest that is refused then is the registry's fault.
  let pushes = 0
  let stop = false
  const collecting = (async () => {
    for (let passed = -1; !stop; ) {
      if (pushes > passed) {
        passed = pushes
        await pass(1)
      }
      await collect({ now: true })
    }
  })()
  const pushed: string[] = []
  try {
    for (let index = 0; index < 60; index++) {
      const layers = [`layer ${index}`, `shared ${index % 3}`]
      const response = await pushUnlessThere(`gc/race${index % 2}`, `t${index % 5}`, layers)
      assert.equal(response.status, 201, await response.text())
      pushed.push(response.headers.get('docker-content-digest') as string)
      pushes++
      if (index % 4 === 3) await registry.fetch('DELETE', `/v2/gc/race${(index - 1) % 2}/manifests/${pushed[index - 1]}`)
    }
  } finally {
    stop = true
    await collecting
  }
  for (let tag = 0; tag < 5; tag++)
    for (const name of ['gc/race0', 'gc/race1']) {
      const response = await registry.fetch('GET', `/v2/${name}/manifests/t${tag}`)
      if (response.status === 404) continue
      const { layers } = (await response.json()) as { layers: { digest: string }[] }
      for (const { digest } of layers) assert.equal((await registry.fetch('GET', `/v2/${name}/blobs/${digest}`)).status, 200)
    }
})

const undelete = async (name: string, reference = '', of = registry) =>
  await of.fetch('POST', `/v1/repositories/${name}/-/undelete`, {
    body: JSON.stringify({ reference }),
    headers: { 'content-type': 'application/json' },
  })

test('a deleted tag, manifest or repository comes back whole while it is in the window', async () => {
  const { digest } = await pushImage(registry, 'undelete/app', 'v1', { layers: ['its layer'] })
  await registry.fetch('DELETE', '/v2/undelete/app/manifests/v1')
  assert.deepEqual(((await (await undelete('undelete/app', 'v1')).json()) as { tags: string[] }).tags, ['v1'])
  assert.equal(await get('/v2/undelete/app/manifests/v1'), 200)

  await registry.fetch('DELETE', `/v2/undelete/app/manifests/${digest}`)
  await pass(2)
  await collect()
  const back = (await (await undelete('undelete/app', digest)).json()) as { tags: string[] }
  assert.deepEqual(back.tags, ['v1'])
  assert.equal(await get(`/v2/undelete/app/manifests/v1`), 200)
  assert.equal(await get(`/v2/undelete/app/blobs/${sha256('its layer')}`), 200)
  assert.equal((await undelete('undelete/app', digest)).status, 404, 'it is there')

  await admin(registry, 'DELETE', '/v1/repositories/undelete/app')
  assert.equal(await get('/v2/undelete/app/manifests/v1'), 404)
  assert.equal((await undelete('undelete/app')).status, 200)
  assert.equal(await get('/v2/undelete/app/manifests/v1'), 200)
})

test('what cannot come back says why: taken by another, collected, never there', async () => {
  const { digest } = await pushImage(registry, 'undelete/late', 'v1', { layers: ['goes for good'] })
  await registry.fetch('DELETE', `/v2/undelete/late/manifests/${digest}`)
  await pushImage(registry, 'undelete/late', 'v1', { layers: ['new under the old tag'] })
  const back = (await (await undelete('undelete/late', digest)).json()) as { tags: string[]; taken: string[] }
  assert.deepEqual([back.tags, back.taken], [[], ['v1']])
  await registry.fetch('DELETE', `/v2/undelete/late/manifests/${digest}`)
  await pass(12)
  await collect({ now: true })
  assert.equal((await undelete('undelete/late', digest)).status, 410)
  assert.equal((await undelete('undelete/late', 'never')).status, 404)
  assert.equal((await undelete('undelete/none')).status, 404)
  await admin(registry, 'DELETE', '/v1/repositories/undelete/late')
  await pushImage(registry, 'undelete/late', 'v2')
  assert.equal((await undelete('undelete/late')).status, 409)
})

const entry = (digest: string, text: string, mediaType = ociManifest) => ({ mediaType, digest, size: text.length })
const indexOf = (manifests: object[], extra: object = {}) =>
  JSON.stringify({ schemaVersion: 2, mediaType: ociIndex, manifests, ...extra })

test('an index comes back with the platforms that were deleted with it, at any depth, each with its journal entry', async () => {
  const name = 'undelete/index'
  const platform = await pushImage(registry, name, 'platform', { layers: ['of a platform'] })
  const inner = indexOf([entry(platform.digest, platform.text)])
  const outer = indexOf([entry(sha256(inner), inner, ociIndex), entry(platform.digest, platform.text)], {
    annotations: { a: 'b' },
  })
  for (const text of [inner, outer]) assert.equal((await putManifest(registry, name, sha256(text), text, ociIndex)).status, 201)
  const all = [sha256(outer), sha256(inner), platform.digest]
  for (const digest of all) assert.equal((await registry.fetch('DELETE', `/v2/${name}/manifests/${digest}`)).status, 202)
  assert.equal((await registry.fetch('DELETE', `/v2/${name}/blobs/${sha256('of a platform')}`)).status, 202)
  const answer = await undelete(name, sha256(outer))
  assert.equal(answer.status, 200)
  assert.deepEqual(((await answer.json()) as { manifests: string[] }).manifests, all.toReversed())
  const told = await registry.database.read.all<{ digest: string }>(
    `SELECT digest FROM journal WHERE type = 'manifest_undeleted' AND repository = ? ORDER BY seq`,
    [name],
  )
  assert.deepEqual(
    told.map((row) => row.digest),
    all.toReversed(),
    'what is needed before what needs it',
  )
  await pass(12)
  await collect()
  for (const digest of all) assert.equal(await get(`/v2/${name}/manifests/${digest}`), 200)
  assert.equal(await get(`/v2/${name}/blobs/${sha256('of a platform')}`), 200)
})

test('undelete asks for what a push would ask for: no foreign layer, nothing of a referrer, nothing where sparse is allowed', async () => {
  const name = 'undelete/absent'
  const foreign = {
    mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar',
    digest: sha256('elsewhere'),
    size: 9,
    urls: ['https://elsewhere.example/layer'],
  }
  const subject = { mediaType: ociManifest, digest: sha256('a subject to come'), size: 17 }
  const early = { mediaType: 'application/octet-stream', digest: sha256('a layer to come'), size: 15 }
  const loose = await testRegistry({ MCR_STORAGE_SPARSE: 'allow' })
  const sparse = indexOf([entry(sha256('a platform of another registry'), 'a platform of another registry')])
  assert.equal((await putManifest(loose, name, 'v1', sparse, ociIndex)).status, 201)
  const rows: [TestRegistry, string][] = [
    [registry, (await pushImage(registry, name, 'foreign', { extra: { layers: [foreign] } })).digest],
    [registry, (await pushImage(registry, name, 'early', { extra: { layers: [early], subject } })).digest],
    [loose, sha256(sparse)],
  ]
  for (const [of, digest] of rows) {
    assert.equal((await of.fetch('DELETE', `/v2/${name}/manifests/${digest}`)).status, 202)
    const back = await undelete(name, digest, of)
    assert.equal(back.status, 200, await back.text())
    assert.equal((await of.fetch('GET', `/v2/${name}/manifests/${digest}`)).status, 200)
  }
})

test('undelete over a damaged blob says that it is damaged and what heals it; then it comes back', async () => {
  const name = 'undelete/damaged'
  const { digest } = await pushImage(registry, name, 'v1', { layers: ['its damaged layer'] })
  await registry.fetch('DELETE', `/v2/${name}/manifests/${digest}`)
  const layer = sha256('its damaged layer')
  await registry.sql('UPDATE blobs SET state = 1 WHERE digest = ?', [layer])
  const refused = await undelete(name, digest)
  assert.equal(refused.status, 409)
  const text = await refused.text()
  assert.match(text, new RegExp(`${layer} is damaged.*push the damaged digest again, or mcr repair --from`))
  assert.doesNotMatch(text, /collected/)
  await pushBlob(registry, name, 'its damaged layer')
  assert.equal((await undelete(name, digest)).status, 200)
  assert.equal(await get(`/v2/${name}/blobs/${layer}`), 200)
  // What a push would refuse for is refused here too.
  await registry.fetch('DELETE', `/v2/${name}/manifests/${digest}`)
  await registry.sql('DELETE FROM repo_blobs WHERE digest = ?', [layer])
  const gone = await undelete(name, digest)
  assert.deepEqual([gone.status, (await gone.text()).includes('collected')], [410, true])
})

test('the deletes of the protocol say in headers what they free, now and later; each byte once', async () => {
  await pushImage(registry, 'free/other', 'v1', { layers: ['needed by another image'] })
  const { digest } = await pushImage(registry, 'free/app', 'v1', { layers: ['needed by another image', 'by this one only'] })
  const freed = async (path: string) => {
    const { status, headers } = await registry.fetch('DELETE', `/v2/${path}`)
    assert.equal(status, 202)
    const until = headers.get('mcr-free-after')
    return [headers.get('mcr-freed-now'), headers.get('mcr-released'), until && Date.parse(until) > Date.now() + 7 * 86_400_000]
  }
  assert.deepEqual(await freed('free/app/manifests/v1'), ['0', '0', null], 'the manifest stays: no rule collects it')
  assert.deepEqual(await freed(`free/app/manifests/${digest}`), ['0', String('by this one only'.length), true])
  const loose = 'in two repositories'
  for (const name of ['free/app', 'free/other']) await pushBlob(registry, name, loose)
  assert.deepEqual(await freed(`free/app/blobs/${sha256(loose)}`), ['0', '0', true], 'the other repository has it')
  assert.deepEqual(await freed(`free/other/blobs/${sha256(loose)}`), ['0', String(loose.length), true])
  // What a repository names and does not hold is nothing that it frees, nor that whoever deletes there learns of.
  const foreign = await pushBlob(registry, 'free/secret', 'of another repository')
  const type = 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip'
  const named = { layers: [{ mediaType: type, digest: foreign, size: 1, urls: ['https://example.com/'] }] }
  const { digest: naming } = await pushImage(registry, 'free/app', 'foreign', { extra: named })
  assert.deepEqual(await freed(`free/app/manifests/${naming}`), ['0', '0', true])
  assert.deepEqual(await freed(`free/app/blobs/${sha256('needed by another image')}`), ['0', '0', true], 'an image needs it')
})

test('metrics and status tell how much waits for collection and for how long, counting no more than asking may cost', async () => {
  await collect({ now: true })
  await pushBlob(registry, 'wait/app', 'waits for its manifest')
  await pass(4)
  const scrape = async () => {
    const text = await (await registry.fetch('GET', '/metrics')).text()
    return (name: string) => Number(new RegExp(`^mcr_gc_${name} (\\S+)$`, 'm').exec(text)?.[1])
  }
  const before = await scrape()
  assert.ok(before('queue_entries') >= 1, 'the link')
  assert.ok(before('oldest_candidate_seconds') >= 4 * 86_400)
  assert.ok(before('oldest_candidate_seconds') < 5 * 86_400)
  const many = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10500) SELECT i FROM n`
  await registry.sql(`INSERT INTO gc_queue(kind, epoch, repo_id, digest) SELECT 'blob', 1000000, 0, 'many' || i FROM (${many})`)
  await registry.sql(`INSERT INTO trash(inc, digest, epoch) SELECT 'many' || i, 'none', 1000000 FROM (${many})`)
  await new Promise((resolve) => setTimeout(resolve, 1_100))
  const after = await scrape()
  const status = (await admin(registry, 'GET', '/v1/gc/status')) as unknown as { queue: number; trash: number }
  await registry.sql(`DELETE FROM gc_queue WHERE epoch = 1000000`)
  await registry.sql(`DELETE FROM trash WHERE epoch = 1000000`)
  assert.ok(after('queue_entries') >= 10_001 && after('queue_entries') < 10_500, `${after('queue_entries')}`)
  assert.equal(after('trash_entries'), 10_000)
  // Who watches a collection asks every second.
  assert.equal(status.trash, 10_000)
  assert.ok(status.queue >= 10_001 && status.queue < 10_500, `${status.queue}`)
})

test('du of a repository: a tag has for itself what no other repository, tag or untagged manifest needs', async () => {
  const name = 'du/tags'
  const layers = ['by mount elsewhere too', 'of two tags', 'of one without a tag too', 'of an image and its index only']
  const [mounted, both, loose, own] = layers as [string, string, string, string]
  const { digest, text } = await pushImage(registry, name, 'platform', { layers })
  await pushImage(registry, name, 'other', { layers: [both] })
  const untagged = JSON.stringify({
    schemaVersion: 2,
    config: emptyJson,
    layers: [{ mediaType: 'application/octet-stream', digest: sha256(loose), size: loose.length }],
  })
  assert.equal((await putManifest(registry, name, sha256(untagged), untagged)).status, 201)
  const mount = await registry.fetch('POST', `/v2/du/elsewhere/blobs/uploads/?mount=${sha256(mounted)}&from=${name}`)
  assert.equal(mount.status, 201)
  // The platform is below the index only: what it has is the index's own.
  const index = indexOf([entry(digest, text)])
  assert.equal((await putManifest(registry, name, 'v1', index, ociIndex)).status, 201)
  await registry.fetch('DELETE', `/v2/${name}/manifests/platform`)
  const asked = async () => {
    const { usage } = (await admin(registry, 'GET', `/v1/usage?repository=${name}`)) as unknown as {
      usage: { name: string; size: number; unique: number; shared: number }[]
    }
    return usage.map(({ name: tag, size, unique, shared }) => [tag, size, unique, shared])
  }
  const size = `{}${layers.join('')}`.length
  assert.deepEqual(await asked(), [
    ['v1', size, own.length, size - own.length],
    ['other', `{}${both}`.length, 0, `{}${both}`.length],
  ])
  // What is deleted needs nothing any more.
  await registry.fetch('DELETE', `/v2/${name}/manifests/${sha256(untagged)}`)
  await admin(registry, 'DELETE', '/v1/repositories/du/elsewhere')
  assert.deepEqual((await asked())[0], ['v1', size, `${mounted}${loose}${own}`.length, size - `${mounted}${loose}${own}`.length])
})

test('du counts each byte once, and why names what keeps a blob and who removed it', async () => {
  await pushImage(registry, 'du/one', 'v1', { layers: ['shared by two', 'only in one'] })
  await pushImage(registry, 'du/two', 'v1', { layers: ['shared by two'] })
  const { usage } = (await admin(registry, 'GET', '/v1/usage')) as unknown as {
    usage: { name: string; size: number; unique: number }[]
  }
  const one = usage.find((entry) => entry.name === 'du/one')
  assert.deepEqual([one?.size, one?.unique], ['{}shared by twoonly in one'.length, 'only in one'.length])
  const tags = (await admin(registry, 'GET', '/v1/usage?repository=du/one')) as unknown as {
    usage: { name: string; size: number }[]
  }
  assert.deepEqual(
    tags.usage.map(({ name, size }) => [name, size]),
    [['v1', '{}shared by twoonly in one'.length]],
  )
  const why = async (digest: string) =>
    (await admin(registry, 'GET', `/v1/digests/${digest}`)) as unknown as {
      state: string
      keepers: { repository: string; kind: string }[]
      history: string[]
    }
  const kept = await why(sha256('shared by two'))
  assert.deepEqual(kept.keepers.map(({ repository, kind }) => `${repository} ${kind}`).sort(), [
    'du/one link',
    'du/one manifest',
    'du/two link',
    'du/two manifest',
  ])
  const loose = await pushBlob(registry, 'du/one', 'deleted by hand')
  await registry.fetch('DELETE', `/v2/du/one/blobs/${loose}`)
  await pass(12)
  await collect({ now: true })
  const gone = await why(loose)
  assert.equal(gone.state, 'collected')
  assert.match(gone.history[0] as string, /blob_deleted du\/one by admin/)
})
