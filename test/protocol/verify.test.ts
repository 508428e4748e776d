import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { pushBlob, pushImage, putManifest, sha256 } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'
import { damages, fileOf, verify } from '../support/storage.ts'

const registry = await testRegistry()
const get = async (path: string) => (await registry.fetch('GET', path)).status
const foundFor = async (digest: string, deep = false) =>
  (await verify(registry, deep)).findings.filter((finding) => finding.digest === digest)
const only = async (digest: string, deep = false) => {
  const found = await foundFor(digest, deep)
  assert.equal(found.length, 1, JSON.stringify(found))
  const [finding] = found as [(typeof found)[0]]
  assert.notEqual(finding.says, '')
  assert.notEqual(finding.hint, '')
  return finding
}
/** Changes rows that foreign keys and triggers protect: what a bug or a hand could do. */
const force = async (...statements: [text: string, ...args: (string | number | null)[]][]) => {
  for (const [text, ...args] of statements) await registry.sql(text, args)
}

test('a registry that is whole has no findings, shallow and deep, and everything is counted', async () => {
  await pushImage(registry, 'verify/whole', 'v1', { layers: ['a layer', 'another'] })
  const big = Buffer.alloc(3 << 20, 'big')
  await pushBlob(registry, 'verify/whole', big)
  const { headers } = await registry.fetch('POST', '/v2/verify/whole/blobs/uploads/')
  await registry.fetch('PATCH', headers.get('location') as string, { body: 'under way' })
  for (const deep of [false, true]) {
    const { findings, result } = await verify(registry, deep)
    assert.deepEqual(findings, [])
    const { ok, manifests, tags, blobs, bytes, files } = result
    const all = '{}a layeranother'.length + big.length
    assert.deepEqual(
      { ok, manifests, tags, blobs, bytes, files },
      { ok: true, manifests: 1, tags: 1, blobs: 4, bytes: all, files: 5 },
    )
  }
})

const found = {
  flipped: 'blob_bytes',
  zeroed: 'blob_bytes',
  truncated: 'blob_size',
  emptied: 'blob_size',
  deleted: 'blob_missing',
}
for (const [how, damage] of Object.entries(damages))
  test(`a ${how} file is found, alarmed, answered as absent, and healed by the next push of its digest`, async () => {
    const content = `the layer that is ${how}, and long enough for that`
    const digest = sha256(content)
    await pushImage(registry, `verify/${how}`, 'v1', { layers: [content] })
    await pushImage(registry, `verify/${how}-too`, 'v1', { layers: [content] })
    damage(await fileOf(registry, digest))
    const what = found[how as keyof typeof found]
    if (what === 'blob_bytes') {
      assert.deepEqual(await foundFor(digest), [], 'its size is right')
      assert.equal(await get(`/v2/verify/${how}/blobs/${digest}`), 200)
    }
    const finding = await only(digest, true)
    assert.deepEqual([finding.severity, finding.what], ['damage', what])
    assert.deepEqual(finding.repositories, [`verify/${how}`, `verify/${how}-too`])
    assert.match(finding.hint, /push the digest again/)
    const [alarm] = await registry.database.read.all<{ detail: string }>(
      `SELECT detail FROM journal WHERE type = 'blob_damaged' AND digest = ?`,
      [digest],
    )
    assert.deepEqual((JSON.parse(alarm?.detail ?? '{}') as { repositories: string[] }).repositories.sort(), finding.repositories)
    for (const method of ['GET', 'HEAD'] as const)
      assert.equal((await registry.fetch(method, `/v2/verify/${how}/blobs/${digest}`)).status, 404)
    const mount = await registry.fetch('POST', `/v2/verify/third/blobs/uploads/?mount=${digest}&from=verify/${how}`)
    assert.equal(mount.status, 202, 'a damaged blob is mounted nowhere')
    const kept = existsSync(join(registry.root, 'blobs/quarantine'))
      ? readdirSync(join(registry.root, 'blobs/quarantine')).filter((name) => name.startsWith(digest.slice(7)))
      : []
    assert.equal(kept.length, how === 'deleted' ? 0 : 1, 'other bytes are kept aside')
    await pushBlob(registry, `verify/${how}-too`, content)
    for (const name of [`verify/${how}`, `verify/${how}-too`]) {
      const body = await registry.fetch('GET', `/v2/${name}/blobs/${digest}`)
      assert.deepEqual([body.status, await body.text()], [200, content])
    }
    assert.deepEqual(
      (await foundFor(digest, true)).filter(({ severity }) => severity === 'damage'),
      [],
    )
    const healed = await registry.database.read.all(`SELECT 1 AS one FROM journal WHERE type = 'blob_healed' AND digest = ?`, [
      digest,
    ])
    assert.equal(healed.length, 1)
  })

test('bytes that are put back by hand are whole again once verify --deep has read them', async () => {
  const content = 'taken away and put back'
  const digest = await pushBlob(registry, 'verify/back', content)
  const path = await fileOf(registry, digest)
  renameSync(path, `${registry.root}/elsewhere`)
  assert.equal((await only(digest)).what, 'blob_missing')
  renameSync(`${registry.root}/elsewhere`, path)
  assert.equal((await only(digest)).what, 'blob_marked', 'its size alone proves nothing')
  assert.equal(await get(`/v2/verify/back/blobs/${digest}`), 404)
  assert.deepEqual([(await only(digest, true)).severity], ['healed'])
  assert.equal(await get(`/v2/verify/back/blobs/${digest}`), 200)
})

test('a volume that is not mounted marks nothing', async () => {
  const digest = await pushBlob(registry, 'verify/volume', 'on a volume')
  const blobs = join(registry.root, 'blobs')
  renameSync(blobs, `${blobs}.away`)
  mkdirSync(blobs, { mode: 0o700 })
  try {
    const { findings, result } = await verify(registry)
    const [finding] = findings.filter(({ severity }) => severity === 'damage')
    assert.deepEqual([finding?.what, result.ok, result.damaged], ['store_unreadable', false, 1])
    assert.equal(await get(`/v2/verify/volume/blobs/${digest}`), 404)
  } finally {
    renameSync(blobs, `${blobs}.empty`)
    renameSync(`${blobs}.away`, blobs)
  }
  assert.equal(await get(`/v2/verify/volume/blobs/${digest}`), 200)
  assert.deepEqual(await foundFor(digest), [])
})

test('manifests: bytes that rotted are found and healed by pushing the manifest again', async () => {
  const { digest, text } = await pushImage(registry, 'verify/body', 'v1', { layers: ['of a body'] })
  for (const [change, what] of [
    [`UPDATE manifest_bodies SET body = CAST(replace(body, '2', '3') AS BLOB) WHERE digest = ?`, 'body_bytes'],
    [`DELETE FROM manifest_bodies WHERE digest = ?`, 'body_missing'],
  ] as const) {
    await force([change, digest])
    const finding = await only(digest)
    assert.deepEqual([finding.severity, finding.what, finding.repositories], ['damage', what, ['verify/body']])
    assert.equal((await putManifest(registry, 'verify/body', 'v1', text)).status, 201)
    assert.deepEqual(await foundFor(digest), [])
  }
})

test('rows that contradict each other are found, each by its name', async () => {
  const { digest } = await pushImage(registry, 'verify/rows', 'v1', { layers: ['linked here', 'hidden here'] })
  const linked = sha256('linked here')
  const hidden = sha256('hidden here')
  const ofRepository = `repo_id = (SELECT id FROM repositories WHERE name = 'verify/rows')`
  const ofManifest = `manifest_id = (SELECT id FROM manifests WHERE digest = ?)`
  const cases: { what: string; at: string; subject?: string; seed: [string, ...string[]]; undo: [string, ...string[]] }[] = [
    {
      what: 'reference_missing',
      at: digest,
      subject: `layer ${linked}`,
      seed: [`DELETE FROM repo_blobs WHERE ${ofRepository} AND digest = ?`, linked],
      undo: [
        `INSERT INTO repo_blobs(repo_id, digest, epoch) SELECT id, ?, 1 FROM repositories WHERE name = 'verify/rows'`,
        linked,
      ],
    },
    {
      what: 'reference_missing',
      at: digest,
      subject: `layer ${hidden}`,
      seed: [`UPDATE repo_blobs SET hidden_epoch = 1 WHERE ${ofRepository} AND digest = ?`, hidden],
      undo: [`UPDATE repo_blobs SET hidden_epoch = NULL WHERE ${ofRepository} AND digest = ?`, hidden],
    },
    {
      what: 'references_differ',
      at: digest,
      subject: `layer ${linked} has no row`,
      seed: [`DELETE FROM refs WHERE ${ofManifest} AND digest = ?`, digest, linked],
      undo: [`INSERT INTO refs(manifest_id, digest, kind) SELECT id, ?, 'layer' FROM manifests WHERE digest = ?`, linked, digest],
    },
    {
      what: 'references_differ',
      at: digest,
      subject: `config ${linked} is not in the manifest`,
      seed: [
        `INSERT INTO refs(manifest_id, digest, kind) SELECT id, ?, 'config' FROM manifests WHERE digest = ?`,
        linked,
        digest,
      ],
      undo: [`DELETE FROM refs WHERE ${ofManifest} AND digest = ? AND kind = 'config'`, digest, linked],
    },
    {
      what: 'tag_without_manifest',
      at: '',
      subject: 'v1',
      seed: [`UPDATE manifests SET deleted_epoch = 1 WHERE digest = ?`, digest],
      undo: [`UPDATE manifests SET deleted_epoch = NULL WHERE digest = ?`, digest],
    },
    {
      what: 'orphan_body',
      at: sha256('nobody'),
      seed: [`INSERT INTO manifest_bodies(digest, body) VALUES (?, x'00')`, sha256('nobody')],
      undo: [`DELETE FROM manifest_bodies WHERE digest = ?`, sha256('nobody')],
    },
  ]
  for (const { what, at, subject, seed, undo } of cases) {
    await force(seed)
    const finding = await only(at)
    assert.equal(finding.what, what)
    if (subject) assert.equal(finding.subject, subject)
    assert.equal(finding.severity, what.startsWith('orphan') ? 'orphan' : 'damage')
    await force(undo)
    assert.deepEqual(await foundFor(at), [], what)
  }
})

test('a link without a row, and a trash that names what lives, though keys and triggers forbid them', async () => {
  const digest = await pushBlob(registry, 'verify/keys', 'in the trash and alive')
  const [blob] = await registry.database.read.all<{ inc: string }>(`SELECT inc FROM blobs WHERE digest = ?`, [digest])
  const inc = blob?.inc as string
  const [trigger] = await registry.database.read.all<{ sql: string }>(`SELECT sql FROM sqlite_schema WHERE name = 'trash_guard'`)
  await force(['DROP TRIGGER trash_guard'], ['INSERT INTO trash(inc, digest, epoch) VALUES (?, ?, 9999)', inc, digest])
  const alive = await only(digest)
  assert.deepEqual([alive.severity, alive.what, alive.subject], ['damage', 'trash_alive', inc])
  await force(['DELETE FROM trash WHERE inc = ?', inc], [trigger?.sql as string])

  const ghost = sha256('a ghost')
  await registry.database.write(async (sql) => {
    await sql.run('PRAGMA defer_foreign_keys = 1')
    await sql.run(`INSERT INTO blobs(digest, inc, size, epoch) VALUES (?, 'ghost', 1, 1)`, [ghost])
  })
  assert.equal((await only(ghost)).what, 'blob_missing', 'a row without a file')
  await force([`DELETE FROM blobs WHERE digest = ?`, ghost])
})

test('what was allowed to be absent is said, and is no damage', async () => {
  const config = { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 }
  await pushBlob(registry, 'verify/absent', '{}')
  const foreign = { mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip', digest: sha256('elsewhere'), size: 9 }
  const text = JSON.stringify({ schemaVersion: 2, config, layers: [{ ...foreign, urls: ['https://example.com/x'] }] })
  assert.equal((await putManifest(registry, 'verify/absent', 'v1', text)).status, 201)
  const child = await pushImage(registry, 'verify/absent', 'child', { extra: { annotations: { n: 'child' } } })
  const index = JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests: [{ mediaType: 'application/vnd.oci.image.manifest.v1+json', digest: child.digest, size: child.text.length }],
  })
  assert.equal(
    (await putManifest(registry, 'verify/absent', 'all', index, 'application/vnd.oci.image.index.v1+json')).status,
    201,
  )
  await registry.fetch('DELETE', `/v2/verify/absent/manifests/${child.digest}`)
  for (const digest of [sha256(text), sha256(index)]) {
    const finding = await only(digest)
    assert.deepEqual([finding.severity, finding.what], ['absent', 'reference_absent'])
  }
  // Also when it has been collected for good; but one that went by itself is missed.
  await force(
    [`DELETE FROM manifests WHERE digest = ?`, child.digest],
    [`DELETE FROM manifest_bodies WHERE digest = ?`, child.digest],
  )
  assert.equal((await only(sha256(index))).severity, 'absent')
  await force([`UPDATE journal SET digest = NULL WHERE type = 'manifest_deleted' AND digest = ?`, child.digest])
  assert.equal((await only(sha256(index))).severity, 'damage')
  await registry.fetch('DELETE', `/v2/verify/absent/manifests/${sha256(index)}`)
})

test('parts of uploads, and files that nobody names', async () => {
  const { headers } = await registry.fetch('POST', '/v2/verify/parts/blobs/uploads/')
  const location = headers.get('location') as string
  await registry.fetch('PATCH', location, { body: 'the first part' })
  const [segment] = await registry.database.read.all<{ part: string }>(
    `SELECT part FROM upload_segments s JOIN uploads u ON u.inc = s.inc JOIN repositories r ON r.id = u.repo_id WHERE r.name = 'verify/parts'`,
  )
  const part = segment?.part as string
  renameSync(join(registry.root, 'uploads', part), join(registry.root, 'uploads/stray.part'))
  const hex = sha256('nobody').slice(7)
  const file = join(registry.root, 'blobs/sha256', hex.slice(0, 2), `${hex}.nobody`)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, 'nobody')
  const { findings } = await verify(registry)
  const bySubject = (subject: string) =>
    findings.filter((finding) => finding.subject === subject).map(({ severity, what }) => [severity, what])
  assert.deepEqual(bySubject(part), [['damage', 'upload_segment']])
  assert.deepEqual(bySubject('stray.part'), [['orphan', 'orphan_file']])
  assert.deepEqual(bySubject('nobody'), [['orphan', 'orphan_file']])
  assert.equal(readFileSync(file, 'utf8'), 'nobody', 'verifying removes nothing')
  await registry.fetch('DELETE', location)
})

test('nothing is found while pushes, deletes and collections go on', async () => {
  let stop = false
  const busy = (async () => {
    for (let at = 0; !stop; at++) {
      const { digest } = await pushImage(registry, `verify/busy${at % 3}`, `t${at % 5}`, {
        layers: [`busy ${at}`, `shared ${at % 4}`],
      })
      if (at % 3 === 0) await registry.fetch('DELETE', `/v2/verify/busy${at % 3}/manifests/${digest}`)
      await registry.sql('UPDATE instance SET epoch = epoch + 1')
    }
  })()
  for (let round = 0; round < 4; round++) {
    const { findings } = await verify(registry, round % 2 === 1)
    const mine = findings.filter(
      (finding) => finding.severity === 'damage' && finding.repositories.some((name) => name.startsWith('verify/busy')),
    )
    assert.deepEqual(mine, [])
  }
  stop = true
  await busy
})
