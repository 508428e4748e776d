// What a client can send that no HTTP library would: targets, hosts, framing, repeated headers. Each case has its status; none is a 5xx,
// and none changes what is stored.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { test } from 'node:test'
import { pushImage, sha256 } from '../support/oci.ts'
import { sendRaw } from '../support/raw.ts'
import { testRegistry } from '../support/registry.ts'

const registry = await testRegistry()
await pushImage(registry, 'pub/app', 'v1')
const login = `Authorization: Basic ${btoa(`${registry.admin.name}:${registry.admin.password}`)}`
const host = 'Host: localhost'
const state = async () => {
  const catalog = await (await registry.fetch('GET', '/v2/_catalog')).text()
  const tags = await (await registry.fetch('GET', '/v2/pub/app/tags/list')).text()
  return `${catalog} ${tags}`
}
const before = await state()

/** [what, request, statuses that may come first] */
type Case = [what: string, request: string, expected: number | 'closed']
const request = (line: string, headers: string[] = [host, login], body = '') =>
  `${line} HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n${body}`
const get = (target: string, expected: number): Case => [`GET ${target.slice(0, 60)}`, request(`GET ${target}`), expected]

const targets: Case[] = [
  get('/v2/pub/app/manifests/v1', 200),
  get('http://evil.example/v2/pub/app/manifests/v1', 200),
  get('/v2/pub/../pub/app/manifests/v1', 400),
  get('/v2/pub/%2e%2e/app/manifests/v1', 400),
  get('/v2/pub/./app/manifests/v1', 400),
  get('/v2/pub%2fapp/manifests/v1', 400),
  get('/v2/pub%2Fapp/manifests/v1', 400),
  get('/v2/pub%5capp/manifests/v1', 400),
  get('/v2/pub\\app/manifests/v1', 400),
  get('/v2/pub/app%00/manifests/v1', 400),
  get('/v2/pub/app/manifests/v1%zz', 400),
  get('/v2/pub/app/manifests/v1%', 400),
  get('/v2/pub/app/manifests/%ff', 400),
  get('//v2/pub/app/manifests/v1', 400),
  get('/v2//manifests/v1', 400),
  get('/v2/pub//app/manifests/v1', 400),
  get('/v2/pub/app/manifests/v1/', 400),
  get('/v2/pub/app/tags/list/', 400),
  get('/v2/pub/app/manifests/', 400),
  get('/v2/pub/app/manifests/v1#x', 400),
  get(`/v2/${'a/'.repeat(4096)}manifests/v1`, 400),
  get(`/v2/${'a'.repeat(300)}/manifests/v1`, 400),
  get(`/v2/pub/app/manifests/${'t'.repeat(129)}`, 400),
  get(`/v2/pub/app/tags/list?last=${'a'.repeat(20_000)}`, 400),
  get('/v2/pub/app/manifests/sha256:../../../../etc/passwd', 400),
  get('/v2/pub/app/blobs/sha256:..%2f..%2fetc%2fpasswd', 400),
  get(`/v2/pub/app/blobs/sha256:${'a'.repeat(63)}`, 400),
  get(`/v2/pub/app/blobs/sha256:${'A'.repeat(64)}`, 400),
  get('/v2/pub/app/blobs/uploads/../../../../etc/passwd', 400),
  get('/v2/pub/app/blobs/uploads/x', 404),
  get('/v2/PUB/app/tags/list', 400),
  get('/etc/passwd', 404),
  get('*', 400),
  ['CONNECT', request('CONNECT evil.example:443'), 'closed'],
  ['TRACE', request('TRACE /v2/'), 405],
  ['an unknown method', request('BREW /v2/'), 400],
  ['OPTIONS', request('OPTIONS /v2/'), 405],
]

const hosts: Case[] = [
  ['no Host', request('GET /v2/', [login]), 400],
  ['two Hosts', request('GET /v2/', [host, 'Host: evil.example', login]), 400],
  ['a Host with a path', request('GET /v2/pub/app/manifests/v1', ['Host: x/v2/pub#', login]), 400],
  ['a Host with a blank', request('GET /v2/', ['Host: a b', login]), 400],
  ['a Host with userinfo', request('GET /v2/', ['Host: user@localhost', login]), 400],
  ['an empty Host', request('GET /v2/', ['Host:', login]), 400],
  ['a Host that is not ours', request('GET /v2/', ['Host: evil.example', login]), 421],
  [
    'X-Forwarded-Host from a stranger counts for nothing',
    request('GET /v2/', [host, 'X-Forwarded-Host: evil.example', 'X-Forwarded-Proto: https']),
    401,
  ],
]

const chunked = 'Transfer-Encoding: chunked'
const framing: Case[] = [
  [
    'Content-Length beside Transfer-Encoding',
    request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Content-Length: 3', chunked], '0\r\n\r\n'),
    400,
  ],
  [
    'two lengths that differ',
    request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Content-Length: 3', 'Content-Length: 4'], 'abcd'),
    400,
  ],
  ['two equal lengths', request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Content-Length: 0', 'Content-Length: 0']), 400],
  ['a negative length', request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Content-Length: -1']), 400],
  ['a length that is no number', request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Content-Length: 0x10']), 400],
  ['a transfer coding nobody knows', request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Transfer-Encoding: xchunked']), 400],
  [
    'chunked, identity',
    request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Transfer-Encoding: chunked, identity'], '0\r\n\r\n'),
    400,
  ],
  [
    'gzip, chunked',
    request('POST /v2/raw/a/blobs/uploads/', [host, login, 'Transfer-Encoding: gzip, chunked'], '0\r\n\r\n'),
    400,
  ],
  ['a bare line feed', `GET /v2/ HTTP/1.1\n${host}\n\n`, 400],
  ['a folded header', request('GET /v2/', [host, 'X-A: b', ' folded', login]), 400],
  ['a blank before the colon', request('GET /v2/', [host, 'X-A : b', login]), 400],
  ['a chunk size that is none', request('PUT /v2/raw/a/manifests/v1', [host, login, chunked], 'zz\r\nabc\r\n0\r\n\r\n'), 400],
  ['two Authorizations', request('GET /v2/', [host, login, login]), 400],
  [
    'two Content-Ranges',
    request('PATCH /v2/raw/a/blobs/uploads/x', [host, login, 'Content-Range: 0-1', 'Content-Range: 0-2', 'Content-Length: 0']),
    400,
  ],
  ['two Ranges', request(`GET /v2/pub/app/blobs/${sha256('{}')}`, [host, login, 'Range: bytes=0-0', 'Range: bytes=1-1']), 400],
  ['HTTP/0.9', 'GET /v2/\r\n\r\n', 400],
  ['not HTTP', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
  ['headers beyond 64 KiB', request('GET /v2/', [host, `X-A: ${'a'.repeat(70_000)}`]), 431],
  ['Upgrade', request('GET /v2/', [host, login, 'Connection: Upgrade', 'Upgrade: h2c']), 200],
  [
    'an expectation nobody knows',
    request('PUT /v2/raw/a/manifests/v1', [host, login, 'Expect: 200-ok', 'Content-Length: 0']),
    417,
  ],
]

const injections: Case[] = [
  "' OR 1=1--",
  '"; DROP TABLE tags;--',
  '%27%20OR%201=1',
  '$\u007bjndi:ldap://x}',
  '<script>',
  '../../etc',
  '\u202e',
].flatMap((payload) => {
  const text = encodeURIComponent(payload)
  return [
    [`last=${payload}`, request(`GET /v2/pub/app/tags/list?last=${text}`), 200],
    [`n=${payload}`, request(`GET /v2/pub/app/tags/list?n=${text}`), 400],
    [`artifactType=${payload}`, request(`GET /v2/pub/app/referrers/${sha256('x')}?artifactType=${text}`), 200],
    [`digest=${payload}`, request(`POST /v2/pub/app/blobs/uploads/?digest=${text}`, [host, login, 'Content-Length: 0']), 400],
    [`mount=${payload}`, request(`POST /v2/pub/app/blobs/uploads/?mount=${text}`, [host, login, 'Content-Length: 0']), 400],
    [
      `from=${payload}`,
      request(`POST /v2/raw/b/blobs/uploads/?mount=${sha256('x')}&from=${text}`, [host, login, 'Content-Length: 0']),
      400,
    ],
    [`catalog last=${payload}`, request(`GET /v2/_catalog?last=${text}`), 200],
    [`scope=${payload}`, request(`GET /v2/token?scope=${text}`), 200],
  ] as Case[]
})

for (const [name, cases] of Object.entries({
  'request targets (S-23)': targets,
  'hosts (S-53)': hosts,
  'framing (S-54)': framing,
  'query parameters (S-39)': injections,
}))
  test(name, async () => {
    const table: string[] = []
    for (const [what, bytes, expected] of cases) {
      const { statuses, text } = await sendRaw(registry.port, bytes, 150)
      const got = statuses[0] ?? 'closed'
      table.push(`${String(got).padEnd(7)} ${what}`)
      assert.equal(got, expected, `${what}\n${text.slice(0, 600)}`)
      assert.ok(
        statuses.every((status) => status < 500),
        what,
      )
      if (typeof got === 'number' && got >= 400 && !bytes.startsWith('HEAD'))
        assert.match(text, /"errors":\[\{"code":"[A-Z_]+"/, what)
      assert.ok(!/evil\.example/.test(text.split('\r\n\r\n')[0] as string), what)
    }
    console.log(`${name}\n  ${table.join('\n  ')}`)
    assert.equal(await state(), before)
  })

test('320 hostile names, digests and ids on every route: 400, 404 or 405, and nothing else (S-23, S-24)', async () => {
  const pieces = [
    '..',
    '.',
    '%2e%2e',
    '%2E%2E',
    '..%2f',
    '%2f..',
    '..%5c',
    '%5c',
    '\\',
    '%00',
    'a%00',
    '%ff',
    '%c0%ae',
    '%',
    '%g0',
    '%25%32%66',
    '%252f',
    '~',
    '$HOME',
    '`id`',
  ]
  const more = [
    ';',
    '|',
    '&',
    '*',
    '?a',
    'a:b:c',
    'sha256:',
    'sha256:%2e%2e',
    `sha256:${'g'.repeat(64)}`,
    'sha512:00',
    '__proto__',
    'constructor',
    'ü',
    '%E2%80%AE',
    '-',
    '_',
    'A',
    'a'.repeat(4096),
    '.'.repeat(300),
    'uploads',
  ]
  const routes = [
    'manifests/X',
    'blobs/X',
    'referrers/X',
    'blobs/uploads/X',
    'X/manifests/v1',
    'X/tags/list',
    `X/blobs/${sha256('x')}`,
    'X/blobs/uploads/0',
  ]
  const counts: Record<number, number> = {}
  for (const piece of [...pieces, ...more])
    for (const route of routes) {
      const target = `/v2/hostile/${route.replace('X', () => piece)}`
      const status = await new Promise<number>((resolve, reject) => {
        const req = httpRequest(
          {
            host: '127.0.0.1',
            port: registry.port,
            path: encodeURI(target).replaceAll('%25', '%'),
            headers: { host: 'localhost', authorization: login.slice(15) },
          },
          (res) => {
            res.resume()
            resolve(res.statusCode ?? 0)
          },
        )
        req.on('error', reject)
        req.end()
      })
      // A referrers list of a digest nobody knows is an empty list; everything else that is well formed is not there.
      assert.ok([400, 404, 405].includes(status), `${status} ${target}`)
      counts[status] = (counts[status] ?? 0) + 1
    }
  console.log(`hostile paths: ${JSON.stringify(counts)}`)
})

test('an expectation is met once the request is allowed, and not before', async () => {
  const body = '{}'
  const headers = (who: string[]) => [host, ...who, 'Expect: 100-continue', `Content-Length: ${body.length}`]
  const allowed = await sendRaw(
    registry.port,
    request(`POST /v2/raw/c/blobs/uploads/?digest=${sha256(body)}`, headers([login]), body),
  )
  assert.deepEqual(allowed.statuses, [100, 201])
  const refused = await sendRaw(registry.port, request('POST /v2/raw/c/blobs/uploads/', headers([])))
  assert.deepEqual(refused.statuses, [401])
})

test('a connection goes on after a refusal with a small body, and ends after one with a huge body', async () => {
  const refusal = request('PUT /v2/PUB/x/manifests/v1', [host, login, 'Content-Length: 5'], 'abcde')
  const two = await sendRaw(registry.port, `${refusal}${request('GET /v2/')}`)
  assert.deepEqual(two.statuses, [400, 200])
  const huge = await sendRaw(
    registry.port,
    request('PUT /v2/PUB/x/manifests/v1', [host, login, 'Content-Length: 99999999'], 'x'.repeat(100_000)),
    3000,
  )
  assert.deepEqual(huge.statuses, [400])
})

test('a connection that has taken all of a refused body goes on, however long after', async () => {
  const body = Buffer.alloc(5 * 1024 * 1024)
  const socket = connect(registry.port, '127.0.0.1')
  let text = ''
  socket.on('data', (piece: Buffer) => (text += piece))
  const gone = once(socket, 'close')
  socket.write(request('PUT /v2/PUB/x/manifests/v1', [host, login, `Content-Length: ${body.length}`]))
  await new Promise<void>((resolve) => socket.write(body, () => resolve()))
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  socket.write(request('GET /v2/', [host, login, 'Connection: close']))
  await gone
  assert.deepEqual(
    [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
    ['400', '200'],
  )
})

test('HEAD has the length of GET and no body, also for refusals', async () => {
  const good = await sendRaw(registry.port, request('HEAD /v2/pub/app/manifests/v1'))
  assert.match(good.text, /Content-Length: [1-9]/)
  assert.ok(good.text.endsWith('\r\n\r\n'))
  const bad = await sendRaw(registry.port, request('HEAD /v2/pub/app/manifests/none'))
  assert.deepEqual(bad.statuses, [404])
  assert.ok(bad.text.endsWith('\r\n\r\n'))
})

test('deeply nested and crowded JSON is refused before it is parsed, and the process goes on (S-22)', async () => {
  const stored = await state()
  for (const body of [
    '['.repeat(1_000_000),
    `{"a":[${'1,'.repeat(200_000)}1]}`,
    `{${Array.from({ length: 120_000 }, (_, i) => `"k${i}":1`).join(',')}}`,
  ]) {
    const response = await registry.fetch('PUT', '/v2/pub/app/manifests/bomb', {
      body,
      headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
    })
    assert.equal(response.status, 400)
  }
  assert.equal(await state(), stored)
})
