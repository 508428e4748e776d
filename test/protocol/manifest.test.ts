import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  dockerManifest,
  emptyJson,
  errorCode,
  ociIndex,
  ociManifest,
  pushBlob,
  pushImage,
  putManifest,
  sha256,
  sha512,
} from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry()
await pushBlob(registry, 'm/app', '{}')
const image = (extra: object = {}) =>
  JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: emptyJson, layers: [], ...extra })

test('push by tag and read back by tag and digest: exact bytes, type, digest, length', async () => {
  const { digest, text, response } = await pushImage(registry, 'm/app', 'v1', { layers: ['one', 'two'] })
  assert.equal(response.status, 201)
  assert.equal(response.headers.get('location'), `/v2/m/app/manifests/${digest}`)
  assert.equal(response.headers.get('docker-content-digest'), digest)
  assert.equal(response.headers.get('content-length'), '0')
  for (const reference of ['v1', digest, digest.replace(':', '%3A')]) {
    const got = await registry.fetch('GET', `/v2/m/app/manifests/${reference}`)
    assert.equal(got.status, 200)
    assert.equal(got.headers.get('content-type'), ociManifest)
    assert.equal(got.headers.get('docker-content-digest'), digest)
    assert.equal(got.headers.get('etag'), `"${digest}"`)
    assert.equal(await got.text(), text)
    const head = await registry.fetch('HEAD', `/v2/m/app/manifests/${reference}`)
    assert.equal(head.headers.get('content-length'), String(text.length))
    assert.equal(head.headers.get('content-type'), ociManifest)
  }
})

test('Accept is ignored: no 406, no 404, no conversion', async () => {
  await pushImage(registry, 'm/app', 'accept')
  for (const accept of [dockerManifest, 'text/plain', '*/*']) {
    const got = await registry.fetch('GET', '/v2/m/app/manifests/accept', { headers: { accept } })
    assert.equal(got.headers.get('content-type'), ociManifest)
  }
})

test('If-None-Match answers 304 without a body', async () => {
  const { digest } = await pushImage(registry, 'm/app', 'cond')
  const got = await registry.fetch('GET', '/v2/m/app/manifests/cond', { headers: { 'if-none-match': `"${digest}"` } })
  assert.equal(got.status, 304)
  assert.equal(await got.text(), '')
})

test('bad references: 400 for digests that do not parse and for bad tags, 404 for what is not there', async () => {
  const cases: [string, string, number, string][] = [
    ['PUT', 'sha256:baddigeststring', 400, 'DIGEST_INVALID'],
    ['PUT', `${'t'.repeat(129)}`, 400, 'MANIFEST_INVALID'],
    ['PUT', '-bad', 400, 'MANIFEST_INVALID'],
    ['GET', `sha256:${'0'.repeat(64)}`, 404, 'MANIFEST_UNKNOWN'],
    ['GET', 'absent', 404, 'MANIFEST_UNKNOWN'],
    ['GET', 'sha256:baddigeststring', 400, 'DIGEST_INVALID'],
    ['DELETE', 'absent', 404, 'MANIFEST_UNKNOWN'],
  ]
  for (const [method, reference, status, code] of cases) {
    const init = method === 'PUT' ? { body: image(), headers: { 'content-type': ociManifest } } : {}
    const response = await registry.fetch(method as 'GET', `/v2/m/app/manifests/${reference}`, init)
    assert.equal(response.status, status, `${method} ${reference}`)
    assert.equal(await errorCode(response), code)
  }
  assert.equal(await errorCode(await registry.fetch('DELETE', '/v2/m/nowhere/manifests/v1')), 'NAME_UNKNOWN')
})

test('the digest in the path must be the digest of the body; then nothing is stored', async () => {
  const text = image({ annotations: { bad: 'digest' } })
  const response = await putManifest(registry, 'm/app', sha256(text), `${text}  `)
  assert.equal(response.status, 400)
  assert.equal(await errorCode(response), 'DIGEST_INVALID')
  assert.equal((await registry.fetch('HEAD', `/v2/m/app/manifests/${sha256(text)}`)).status, 404)
})

test('sha512: path, header, ?tag= and HEAD by tag all say sha512', async () => {
  const text = image({ annotations: { algorithm: 'sha512' } })
  const digest = sha512(text)
  const response = await putManifest(registry, 'm/app', `${digest}?tag=long&tag=long2`, text)
  assert.equal(response.status, 201)
  assert.equal(response.headers.get('oci-tag'), 'long, long2')
  assert.equal(response.headers.get('docker-content-digest'), digest)
  assert.equal((await registry.fetch('HEAD', '/v2/m/app/manifests/long2')).headers.get('docker-content-digest'), digest)
})

test('?tag= is all or nothing, belongs to a digest, and has a bound', async () => {
  const text = image({ annotations: { tags: 'many' } })
  const bad = await putManifest(registry, 'm/app', `${sha256(text)}?tag=good&tag=-bad`, text)
  assert.equal(bad.status, 400)
  assert.equal((await registry.fetch('HEAD', '/v2/m/app/manifests/good')).status, 404)
  assert.equal((await registry.fetch('HEAD', `/v2/m/app/manifests/${sha256(text)}`)).status, 404)
  assert.equal((await putManifest(registry, 'm/app', 'v9?tag=other', text)).status, 400)
  const many = Array.from({ length: 101 }, (_, index) => `tag=t${index}`).join('&')
  assert.equal((await putManifest(registry, 'm/app', `${sha256(text)}?${many}`, text)).status, 414)
})

test('what a manifest may be: every refusal names what is wrong, and nothing is stored', async () => {
  const descriptor = { mediaType: 'application/x', digest: sha256('absent'), size: 6 }
  const rows: [string, string, string | null, number, string][] = [
    ['not JSON', '{', ociManifest, 400, 'MANIFEST_INVALID'],
    ['an array', '[]', ociManifest, 400, 'MANIFEST_INVALID'],
    ['schema 1', '{"schemaVersion":1}', 'application/vnd.docker.distribution.manifest.v1+json', 400, 'MANIFEST_INVALID'],
    ['both kinds', image({ manifests: [] }), ociManifest, 400, 'MANIFEST_INVALID'],
    ['another mediaType', image(), ociIndex, 400, 'MANIFEST_INVALID'],
    ['unknown type', '{"schemaVersion":2}', 'text/html', 400, 'MANIFEST_INVALID'],
    ['bad digest inside', image({ layers: [{ ...descriptor, digest: 'sha256:x' }] }), ociManifest, 400, 'MANIFEST_INVALID'],
    ['negative size', image({ layers: [{ ...descriptor, size: -1 }] }), ociManifest, 400, 'MANIFEST_INVALID'],
    ['missing blob', image({ layers: [descriptor] }), ociManifest, 400, 'MANIFEST_BLOB_UNKNOWN'],
    ['missing child', JSON.stringify({ schemaVersion: 2, manifests: [descriptor] }), ociIndex, 400, 'MANIFEST_BLOB_UNKNOWN'],
    ['deep', `{"schemaVersion":2,"a":${'['.repeat(100)}${']'.repeat(100)}}`, ociManifest, 400, 'MANIFEST_INVALID'],
    ['too large', image({ annotations: { big: 'x'.repeat(4 * 1024 * 1024) } }), ociManifest, 413, 'MANIFEST_INVALID'],
  ]
  for (const [what, text, type, status, code] of rows) {
    const response = await putManifest(registry, 'm/app', 'refused', text, type)
    assert.equal(response.status, status, `${what}: ${await response.clone().text()}`)
    assert.equal(await errorCode(response), code, what)
    assert.equal((await registry.fetch('HEAD', '/v2/m/app/manifests/refused')).status, 404, what)
  }
})

test('one error entry for each missing digest', async () => {
  const layers = ['x', 'y'].map((text) => ({ mediaType: 'application/x', digest: sha256(text), size: 1 }))
  const response = await putManifest(registry, 'm/app', 'refused', image({ layers }))
  const { errors } = (await response.json()) as { errors: { detail: { digest: string } }[] }
  assert.deepEqual(errors.map((entry) => entry.detail.digest).sort(), layers.map((layer) => layer.digest).sort())
})

test('what must be accepted: no Content-Type, unknown config types, empty lists, unknown fields, data, foreign layers, absent subjects', async () => {
  const foreign = {
    mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
    digest: sha256('far'),
    size: 3,
    urls: ['https://example.org/x'],
  }
  const rows: [string, string, string | null][] = [
    ['no content type', image({ annotations: { n: '1' } }), null],
    ['generic json', image({ annotations: { n: '2' } }), 'application/json'],
    ['parameters', image({ annotations: { n: '3' } }), `${ociManifest}; charset=utf-8`],
    ['empty index', JSON.stringify({ schemaVersion: 2, mediaType: ociIndex, manifests: [] }), ociIndex],
    ['custom fields', image({ 'org.example.custom': { deep: [1, 2, { x: null }] } }), ociManifest],
    ['odd config', image({ config: { ...emptyJson, mediaType: 'application/vnd.cncf.helm.config.v1+json' } }), ociManifest],
    ['data', image({ config: { ...emptyJson, data: 'e30=' } }), ociManifest],
    ['config is a layer too', image({ layers: [emptyJson] }), ociManifest],
    ['foreign layer', image({ layers: [foreign] }), ociManifest],
    ['absent subject', image({ subject: { mediaType: ociManifest, digest: sha256('subject'), size: 7 } }), ociManifest],
    [
      'docker schema 2',
      JSON.stringify({ schemaVersion: 2, mediaType: dockerManifest, config: emptyJson, layers: [] }),
      dockerManifest,
    ],
    [
      'buildkit cache index of blobs',
      JSON.stringify({ schemaVersion: 2, mediaType: ociIndex, manifests: [emptyJson] }),
      ociIndex,
    ],
    ['3.9 MB of annotations', image({ annotations: { big: 'x'.repeat(3_900_000) } }), ociManifest],
  ]
  for (const [what, text, type] of rows) {
    const response = await putManifest(registry, 'm/app', 'accepted', text, type)
    assert.equal(response.status, 201, `${what}: ${await response.text()}`)
    assert.equal(await (await registry.fetch('GET', '/v2/m/app/manifests/accepted')).text(), text, what)
  }
})

test('deleting a tag leaves the manifest; deleting the digest takes every tag; at once for every reader', async () => {
  const { digest } = await pushImage(registry, 'm/del', 'a')
  await pushImage(registry, 'm/del', 'b')
  assert.equal((await registry.fetch('DELETE', '/v2/m/del/manifests/a')).status, 202)
  assert.equal((await registry.fetch('HEAD', '/v2/m/del/manifests/a')).status, 404)
  assert.equal((await registry.fetch('HEAD', `/v2/m/del/manifests/${digest}`)).status, 200)
  const gone = await registry.fetch('DELETE', `/v2/m/del/manifests/${digest}`)
  assert.equal(gone.status, 202)
  for (const reference of ['b', digest])
    assert.equal((await registry.fetch('GET', `/v2/m/del/manifests/${reference}`)).status, 404)
  assert.deepEqual(await (await registry.fetch('GET', '/v2/m/del/tags/list')).json(), { name: 'm/del', tags: [] })
  assert.equal((await pushImage(registry, 'm/del', 'b')).response.status, 201)
  assert.equal((await registry.fetch('HEAD', '/v2/m/del/manifests/b')).status, 200)
})

test('a blob that a manifest needs is not deleted (405); after its manifest it is', async () => {
  const { digest } = await pushImage(registry, 'm/need', 'v1', { layers: ['needed'] })
  const refused = await registry.fetch('DELETE', `/v2/m/need/blobs/${sha256('needed')}`)
  assert.equal(refused.status, 405)
  assert.equal(await errorCode(refused), 'UNSUPPORTED')
  await registry.fetch('DELETE', `/v2/m/need/manifests/${digest}`)
  assert.equal((await registry.fetch('DELETE', `/v2/m/need/blobs/${sha256('needed')}`)).status, 202)
  assert.equal((await registry.fetch('HEAD', `/v2/m/need/blobs/${sha256('needed')}`)).status, 404)
  assert.equal((await registry.fetch('DELETE', `/v2/m/need/blobs/${sha256('needed')}`)).status, 404)
  const response = await putManifest(
    registry,
    'm/need',
    'v1',
    image({ layers: [{ mediaType: 'application/x', digest: sha256('needed'), size: 6 }] }),
  )
  assert.equal(await errorCode(response), 'MANIFEST_BLOB_UNKNOWN')
})

test('compare-and-swap of a tag: If-None-Match: * creates, If-Match moves, 412 names what is there', async () => {
  const [one, two] = [image({ annotations: { v: 'one' } }), image({ annotations: { v: 'two' } })]
  const put = (text: string, headers: Record<string, string>) => putManifest(registry, 'm/app', 'cas', text, ociManifest, headers)
  assert.equal((await put(one, { 'if-match': `"${sha256(two)}"` })).status, 412)
  assert.equal((await put(one, { 'if-none-match': '*' })).status, 201)
  const taken = await put(two, { 'if-none-match': '*' })
  assert.equal(taken.status, 412)
  assert.equal(taken.headers.get('etag'), `"${sha256(one)}"`)
  assert.equal((await put(two, { 'if-match': `"${sha256(one)}"` })).status, 201)
  const winners = await Promise.all(
    [one, image(), image({ annotations: { v: 'three' } })].map((text) => put(text, { 'if-match': `"${sha256(two)}"` })),
  )
  assert.deepEqual(winners.map((response) => response.status).sort(), [201, 412, 412])
  const stale = await registry.fetch('DELETE', '/v2/m/app/manifests/cas', { headers: { 'if-match': `"${sha256(two)}"` } })
  assert.equal(stale.status, 412)
})

test('referrers: an index of who names the subject, with filter, type rules and annotations', async () => {
  const { digest: subject } = await pushImage(registry, 'm/ref', 'base')
  const by = { mediaType: ociManifest, digest: subject, size: 1 }
  const texts = [
    image({ subject: by, artifactType: 'application/sig+json', annotations: { who: 'a' } }),
    image({ subject: by, config: { ...emptyJson, mediaType: 'application/sbom' } }),
    JSON.stringify({ schemaVersion: 2, mediaType: ociIndex, manifests: [], subject: by }),
  ]
  for (const text of texts) {
    const response = await putManifest(registry, 'm/ref', sha256(text), text, null)
    assert.equal(response.status, 201)
    assert.equal(response.headers.get('oci-subject'), subject)
  }
  const list = async (query = '') => {
    const response = await registry.fetch('GET', `/v2/m/ref/referrers/${subject}${query}`)
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('content-type'), ociIndex)
    return {
      filters: response.headers.get('oci-filters-applied'),
      ...((await response.json()) as { manifests: Record<string, unknown>[] }),
    }
  }
  const all = await list()
  assert.equal(all.manifests.length, 3)
  const byDigest = (digest: string) => all.manifests.find((entry) => entry.digest === digest) as Record<string, unknown>
  assert.deepEqual(byDigest(sha256(texts[0] as string)).annotations, { who: 'a' })
  assert.equal(byDigest(sha256(texts[1] as string)).artifactType, 'application/sbom')
  assert.equal('artifactType' in byDigest(sha256(texts[2] as string)), false)
  for (const query of ['?artifactType=application/sig%2Bjson', '?artifactType=application/sig+json']) {
    const some = await list(query)
    assert.equal(some.filters, 'artifactType')
    assert.deepEqual(
      some.manifests.map((entry) => entry.digest),
      [sha256(texts[0] as string)],
    )
  }
  assert.equal((await list('?artifactType=')).manifests.length, 3)
  await registry.fetch('DELETE', `/v2/m/ref/manifests/${sha256(texts[0] as string)}`)
  assert.equal((await list()).manifests.length, 2)
  for (const path of [`/v2/m/never/referrers/${subject}`, `/v2/m/ref/referrers/sha256:${'0'.repeat(64)}`]) {
    const response = await registry.fetch('GET', path)
    assert.equal(response.status, 200)
    assert.deepEqual(((await response.json()) as { manifests: unknown }).manifests, [])
  }
  assert.equal((await registry.fetch('GET', '/v2/m/ref/referrers/sha256:bad')).status, 400)
})

test('a blob of another repository is no basis for a manifest, nor readable', async () => {
  await pushBlob(registry, 'm/secret', 'secret layer')
  const digest = sha256('secret layer')
  assert.equal((await registry.fetch('HEAD', `/v2/m/app/blobs/${digest}`)).status, 404)
  const response = await putManifest(
    registry,
    'm/app',
    'steal',
    image({ layers: [{ mediaType: 'application/x', digest, size: 12 }] }),
  )
  assert.equal(await errorCode(response), 'MANIFEST_BLOB_UNKNOWN')
})

test('a manifest can be read under blobs/ as plain bytes, as containerd asks', async () => {
  const { digest, text } = await pushImage(registry, 'm/app', 'asblob')
  const response = await registry.fetch('GET', `/v2/m/app/blobs/${digest}`)
  assert.equal(response.headers.get('content-type'), 'application/octet-stream')
  assert.equal(await response.text(), text)
})
