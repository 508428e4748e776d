import assert from 'node:assert/strict'
import { test } from 'node:test'
import { errorCode, pushBlob, pushImage, sha256 } from '../support/oci.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry()

test('route words are good names: the end of the path decides', async () => {
  for (const name of ['a/blobs', 'manifests', 'a/tags/list', 'a/blobs/uploads', 'x/referrers', 'v2', 'tags', 'blobs/uploads']) {
    assert.equal((await pushImage(registry, name, 'v1')).response.status, 201, name)
    assert.equal((await registry.fetch('GET', `/v2/${name}/manifests/v1`)).status, 200, name)
    assert.deepEqual(await (await registry.fetch('GET', `/v2/${name}/tags/list`)).json(), { name, tags: ['v1'] })
    assert.equal((await registry.fetch('HEAD', `/v2/${name}/blobs/${sha256('{}')}`)).status, 200, name)
    assert.equal((await registry.fetch('POST', `/v2/${name}/blobs/uploads/`)).status, 202, name)
    assert.equal((await registry.fetch('GET', `/v2/${name}/referrers/${sha256('{}')}`)).status, 200, name)
  }
})

test('a known path with a wrong method is 405 with Allow; anything else is 404; both in the form of their protocol', async () => {
  const rows: [string, string, number, string | null][] = [
    ['POST', '/v2/a/manifests/v1', 405, 'GET, HEAD, PUT, DELETE'],
    ['PUT', `/v2/a/blobs/${sha256('x')}`, 405, 'GET, HEAD, DELETE'],
    ['DELETE', '/v2/a/tags/list', 405, 'GET, HEAD'],
    ['GET', '/v2/a/blobs/uploads/', 405, 'POST'],
    ['DELETE', '/v2/a/blobs/uploads/', 405, 'POST'],
    ['POST', '/v2/', 405, 'GET, HEAD'],
    ['GET', '/v2/a', 404, null],
    ['GET', '/v1/search?q=x', 404, null],
    ['GET', '/', 404, null],
  ]
  for (const [method, path, status, allow] of rows) {
    const response = await registry.fetch(method as 'GET', path)
    assert.equal(response.status, status, `${method} ${path}`)
    assert.deepEqual(response.headers.get('allow')?.split(', ').sort(), allow?.split(', ').sort(), `${method} ${path}`)
    // The administration has a shape of its own.
    if (path.startsWith('/v1/')) assert.equal(((await response.json()) as { code: string }).code, 'UNSUPPORTED')
    else assert.equal(await errorCode(response), 'UNSUPPORTED')
  }
})

test('bad names are 400 NAME_INVALID on every route', async () => {
  for (const name of ['Upper/case', '-a', 'a..b', 'a//b', 'a_-b', `${'n'.repeat(256)}`, 'a/-', 'ü'])
    for (const tail of ['manifests/v1', 'tags/list', `blobs/${sha256('x')}`, `referrers/${sha256('x')}`]) {
      const response = await registry.fetch('GET', `/v2/${name}/${tail}`)
      assert.equal(response.status, 400, `${name} ${tail}`)
      assert.equal(await errorCode(response), 'NAME_INVALID')
    }
})

test('unknown query parameters are ignored everywhere', async () => {
  await pushBlob(registry, 'q/app', 'x')
  assert.equal((await registry.fetch('GET', `/v2/q/app/blobs/${sha256('x')}?ns=docker.io&origin=y`)).status, 200)
  assert.equal((await registry.fetch('GET', '/v2/?ns=docker.io')).status, 200)
})

test('the ping: 200 for a login, 401 with exactly one Bearer challenge for nobody', async () => {
  for (const path of ['/v2/', '/v2']) {
    const ping = await registry.fetch('GET', path)
    assert.equal(ping.status, 200)
    assert.equal(await ping.text(), '{}')
    const nobody = await registry.fetch('GET', path, { as: null })
    assert.equal(nobody.status, 401)
    assert.match(
      nobody.headers.get('www-authenticate') as string,
      /^Bearer realm="http:\/\/127\.0\.0\.1:\d+\/v2\/token",service="[^"]+"$/,
    )
    assert.equal(await errorCode(nobody), 'UNAUTHORIZED')
  }
})

test('a token that did not ask gets 401 with the whole scope; one that asked is served', async () => {
  await pushImage(registry, 'scope/app', 'v1')
  const pull = await registry.token('repository:scope/app:pull')
  const read = await registry.fetch('GET', '/v2/scope/app/manifests/v1', { bearer: pull })
  assert.equal(read.status, 200)
  const write = await registry.fetch('POST', '/v2/scope/app/blobs/uploads/', { bearer: pull })
  assert.equal(write.status, 401)
  const challenge = write.headers.get('www-authenticate') as string
  assert.match(challenge, /scope="repository:scope\/app:pull,push"/)
  assert.match(challenge, /error="insufficient_scope"/)
  const both = await registry.token('repository:scope/app:pull,push')
  assert.equal((await registry.fetch('POST', '/v2/scope/app/blobs/uploads/', { bearer: both })).status, 202)
})

test('a mount whose token never named the source is told once to name it; one that may not read it gets an upload', async () => {
  const digest = await pushBlob(registry, 'mnt/source', 'to mount')
  const narrow = await registry.token('repository:mnt/target:pull,push')
  const path = `/v2/mnt/target/blobs/uploads/?mount=${digest}&from=mnt/source`
  const asked = await registry.fetch('POST', path, { bearer: narrow })
  assert.equal(asked.status, 401)
  assert.match(
    asked.headers.get('www-authenticate') as string,
    /scope="repository:mnt\/target:pull,push repository:mnt\/source:pull"/,
  )
  const wide = await registry.token('repository:mnt/target:pull,push', 'repository:mnt/source:pull')
  assert.equal((await registry.fetch('POST', path, { bearer: wide })).status, 201)
})
