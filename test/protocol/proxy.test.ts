// nginx and Caddy with the configuration that `mcr routes` writes, in front of real processes: what clients see is what one process answers.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { sha256 } from '../support/oci.ts'
import { freePort } from '../support/ports.ts'
import { password, startRegistry } from '../support/process.ts'
import { type Behind, type ProxyKind, startBehind } from '../support/proxies.ts'

const root = mkdtempSync(join(tmpdir(), 'mcr-proxy-'))
const settings = {
  MCR_STORAGE_ROOT: root,
  MCR_STORAGE_FREE_FLOOR: '0',
  MCR_AUTH_BOOTSTRAP_PASSWORD: password,
  MCR_LOG_LEVEL: 'error',
}
const kinds: readonly ProxyKind[] = ['nginx', 'caddy']
const behind = {} as Record<ProxyKind, Behind>
for (const kind of kinds) behind[kind] = await startBehind(kind, settings)
/** One process over the same data, asked without a proxy: the measure. */
const direct = await startRegistry({ env: settings })
const directPort = Number(direct.host.split(':')[1])
after(async () => {
  for (const kind of kinds) await behind[kind].stop()
  await direct.remove()
  rmSync(root, { recursive: true, force: true })
})

const basic = `Basic ${btoa(`admin:${password}`)}`

interface Answer {
  status: number
  headers: Record<string, string>
  body: Buffer
}

/** The target goes out as it is written: nothing parses it before the server does. */
async function ask(
  port: number,
  method: string,
  target: string,
  headers: Record<string, string | undefined> = {},
  body?: Uint8Array | string,
): Promise<Answer> {
  const sent = Object.fromEntries(
    Object.entries({ authorization: basic, host: 'localhost:1', ...headers }).filter(([, value]) => value !== undefined),
  )
  return await new Promise((resolve, reject) => {
    const req = request({ host: '127.0.0.1', port, method, path: target, headers: sent, agent: false }, (res) => {
      const chunks: Buffer[] = []
      res.on('data', (chunk) => chunks.push(chunk))
      res.on('error', reject)
      res.on('end', () =>
        resolve({
          status: res.statusCode as number,
          headers: res.headers as Record<string, string>,
          body: Buffer.concat(chunks),
        }),
      )
    })
    req.on('error', reject)
    req.end(body)
  })
}

/** What a proxy may add, and what differs from one answer to the next. */
const ownHeaders = ['connection', 'keep-alive', 'date', 'server', 'via', 'docker-upload-uuid']
const seen = ({ status, headers, body }: Answer) => ({
  status,
  headers: Object.fromEntries(
    Object.entries(headers)
      .filter(([name]) => !ownHeaders.includes(name))
      .map(([name, value]) => [name, value.replace(/uploads\/[0-9a-f-]{36}/, 'uploads/<id>')])
      .sort(),
  ),
  body: body.toString('latin1'),
})

const manifest = JSON.stringify({
  schemaVersion: 2,
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 },
  layers: [],
})
const names = [
  'a/blobs',
  'manifests',
  'tags/list',
  'a/blobs/uploads',
  'x/referrers',
  'v2',
  'tags',
  'blobs/uploads',
  'a/tags/list',
  'token',
  'v2/token',
]

test('every odd path is answered through nginx and Caddy as one process answers it', async () => {
  for (const name of names) {
    for (const [path, body] of [[`blobs/uploads/?digest=${sha256('{}')}`, '{}']] as const)
      assert.equal((await ask(directPort, 'POST', `/v2/${name}/${path}`, {}, body)).status, 201, name)
    const put = await ask(
      directPort,
      'PUT',
      `/v2/${name}/manifests/v1`,
      { 'content-type': JSON.parse(manifest).mediaType },
      manifest,
    )
    assert.equal(put.status, 201, `${name}: ${put.body}`)
  }
  const digest = sha256(manifest)
  const upload = '00000000-0000-4000-8000-000000000000'
  const tails = [
    'manifests/v1',
    `manifests/${digest}`,
    `manifests/${encodeURIComponent(digest)}`,
    'manifests/none',
    'tags/list',
    'tags/list?n=1',
    `referrers/${digest}`,
    `referrers/${encodeURIComponent(digest)}?artifactType=a%2Fb`,
    `blobs/${sha256('{}')}`,
    `blobs/${encodeURIComponent(sha256('{}'))}`,
    `blobs/${sha256('absent')}`,
    `blobs/uploads/${upload}`,
    `blobs/uploads/${sha256('{}')}`,
    'blobs/uploads/',
    'blobs/uploads',
  ]
  const targets = names.flatMap((name) =>
    tails.flatMap((tail) => [
      ...['GET', 'HEAD'].map((method) => [method, `/v2/${name}/${tail}`] as const),
      // Encoded letters of a name are letters.
      ['GET', `/v2/${name.replace('a', '%61')}/${tail}`] as const,
    ]),
  )
  const more = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'].flatMap((method) =>
    [
      '/v2/',
      '/v2',
      '/v2/?ns=docker.io',
      '/v2/_catalog',
      '/v2/_catalog/',
      '/v2/tags/list',
      '/v2/manifests/v1',
      `/v2/blobs/${digest}`,
      '/v2/a',
      '/v2/a/_oci/ext/discover',
      '/v1/search?q=x',
      '/',
      '/nothing',
      `/v2/none/a/manifests/${digest}`,
      `/v2/none/a/blobs/${digest}`,
      `/v2/none/a/blobs/uploads/${upload}`,
      '/v2/none/a/tags/list',
      // A question mark ends the path, whatever stands behind it.
      '/v2/?x=/a/manifests/v1',
      '/nothing?/v2/a/manifests/v1',
      // Other spellings of a slash, of a step up, of nothing.
      '/v2/a%2Fblobs/manifests/v1',
      '/v2/a%2fb/tags/list',
      '/v2/a//blobs/manifests/v1',
      '/v2//manifests/v1',
      '/v2/a/../a/blobs/manifests/v1',
      '/v2/a/%2e%2e/a/manifests/v1',
      '/v2/a/./blobs/tags/list',
      '/v2/a/blobs/manifests/v1/',
      '/v2/a/%6danifests/v1',
      '/v2/Upper/manifests/v1',
      '/v2/a/blobs/manifests/%FF',
      '/v2/a/blobs/manifests/v1%20',
      '/v2/a/b%5Cc/manifests/v1',
    ].map((target) => [method, target] as const),
  )
  let compared = 0
  const differences: string[] = []
  for (const [method, target] of [...targets, ...more]) {
    const headers = { authorization: method === 'DELETE' && target.includes('manifests/v1') ? undefined : basic }
    const wanted = seen(await ask(directPort, method, target, headers))
    for (const kind of kinds) {
      const got = seen(await ask(behind[kind].port, method, target, headers))
      compared++
      if (JSON.stringify(got) !== JSON.stringify(wanted))
        differences.push(`${kind} ${method} ${target}:\n  ${JSON.stringify(got)}\n  ${JSON.stringify(wanted)}`)
    }
  }
  console.log(`${compared} answers compared, ${differences.length} differences`)
  assert.deepEqual(differences, [])
})

test('what a proxy itself refuses has the status and the form of a refusal of the registry', async () => {
  for (const target of ['/v2/a/manifests/%00', '/v2/a/manifests/%zz', '/v2/../../etc/passwd', `/v2/${'n'.repeat(70_000)}`]) {
    const wanted = await ask(directPort, 'GET', target).catch(() => undefined)
    const got = await ask(behind.nginx.port, 'GET', target)
    assert.ok([wanted?.status, 431, 414].includes(got.status), `${target.slice(0, 40)}: ${got.status}`)
    assert.equal(got.headers['content-type'], 'application/json')
    assert.ok(JSON.parse(got.body.toString()).errors[0].code, target)
  }
})

for (const kind of kinds) {
  test(`${kind}: 1,024 ranges pass, and a body is answered while it still comes`, async () => {
    const { port } = behind[kind]
    const content = Buffer.alloc(300_000, 'x')
    const path = `/v2/r/r/blobs/${sha256(content)}`
    assert.equal((await ask(port, 'POST', `/v2/r/r/blobs/uploads/?digest=${sha256(content)}`, {}, content)).status, 201)
    const range = `bytes=${Array.from({ length: 1024 }, (_, index) => `${10000 + index * 200}-${10099 + index * 200}`).join(',')}`
    const many = await ask(port, 'GET', path, { range })
    assert.equal(many.status, 206)
    assert.equal(many.body.length, (await ask(directPort, 'GET', path, { range })).body.length)

    const early = await new Promise<string>((resolve, reject) => {
      const socket = connect(port, '127.0.0.1')
      // Caddy looks for an answer between two pieces of the body only, so the body goes on, slowly.
      const more = setInterval(() => socket.write('more of it'), 50)
      const timer = setTimeout(() => socket.destroy(new Error('no answer while the body is open')), 10_000)
      socket.on('error', reject)
      socket.on('close', () => {
        clearInterval(more)
        clearTimeout(timer)
      })
      socket.write(
        `POST /v2/r/r/blobs/uploads/?digest=${sha256('x')} HTTP/1.1\r\nHost: localhost:${port}\r\nContent-Length: 100000000\r\n\r\nbegin`,
      )
      socket.once('data', (chunk) => {
        socket.destroy()
        resolve(String(chunk))
      })
    })
    assert.match(early, /^HTTP\/1\.1 401 /)
    assert.match(early, new RegExp(`realm="http://localhost:${port}/v2/token"`))
  })

  test(`${kind}: an upload goes from process to process, and Location stays relative`, async () => {
    const { port } = behind[kind]
    const start = await ask(port, 'POST', '/v2/u/u/blobs/uploads/')
    assert.match(start.headers.location as string, /^\/v2\/u\/u\/blobs\/uploads\/[0-9a-f-]{36}$/)
    const parts = ['one ', 'two ', 'three']
    let at = 0
    for (const part of parts) {
      const answer = await ask(
        port,
        'PATCH',
        start.headers.location as string,
        { 'content-range': `${at}-${at + part.length - 1}` },
        part,
      )
      assert.equal(answer.status, 202)
      at += part.length
    }
    const end = await ask(port, 'PUT', `${start.headers.location}?digest=${sha256(parts.join(''))}`)
    assert.equal(end.status, 201)
    assert.equal((await ask(port, 'GET', end.headers.location as string)).body.toString(), 'one two three')
  })

  test(`${kind}: without its processes it says so in the form of a registry`, async () => {
    const gone = await startBehind(kind, settings, {
      mounts: ['auth'],
      edit: (config) => config.replace(/unix(:|\/)\/[^ ;]*\/0\b/g, `127.0.0.1:${deadPort}`),
    })
    const answer = await ask(gone.port, 'GET', '/v2/')
    assert.equal(answer.status, 503)
    assert.equal(JSON.parse(answer.body.toString()).errors[0].code, 'UNAVAILABLE')
    await gone.stop()
  })
}
const deadPort = await freePort()
