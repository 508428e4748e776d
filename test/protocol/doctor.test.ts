// `mcr doctor`: mistakes that people make with proxies, seeded in a real nginx and a real Caddy, are found and their cure is named.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, cpSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { after, type TestContext, test } from 'node:test'
import { examine } from '../../runtime/doctor/examine.ts'
import { freePort } from '../support/ports.ts'
import { listeningPort, makeCertificate, mcrCommand, password, spawnRegistry } from '../support/process.ts'
import { type ProxyKind, startProxy } from '../support/proxies.ts'

// A socket's path is short.
const dir = mkdtempSync(join(tmpdir(), 'mcr-d-'))
const root = join(dir, 'data')
const settings = {
  MCR_STORAGE_ROOT: root,
  MCR_STORAGE_FREE_FLOOR: '0',
  MCR_AUTH_BOOTSTRAP_PASSWORD: password,
  MCR_SERVER_LISTEN_ADDR: `unix:${dir}/all`,
  MCR_SERVER_GRPC_ADDR: `unix:${dir}/grpc`,
  MCR_SERVER_ACCEL: 'nginx',
}
const certificate = makeCertificate(dir)
const child: ChildProcess = spawnRegistry([], settings)
await listeningPort(child)
after(async () => {
  child.kill('SIGTERM')
  if (child.exitCode === null) await once(child, 'exit')
  rmSync(dir, { recursive: true, force: true })
})
const [file, ...first] = mcrCommand()
const config = (kind: ProxyKind, port: number) =>
  execFileSync(
    file,
    [
      ...first,
      ...['routes', `--${kind}`, '--upstream', `all=unix:${dir}/all`, '--grpc-upstream', `unix:${dir}/grpc`, '--accel'],
      ...[
        '--site',
        `https://localhost:${port}`,
        '--bind',
        '127.0.0.1',
        '--tls-cert',
        certificate.cert,
        '--tls-key',
        certificate.key,
      ],
    ],
    { encoding: 'utf8', env: { PATH: process.env.PATH, ...settings } },
  )

const faketime = globSync('/usr/lib/*/faketime/libfaketime.so.1')[0]
let repositories = 0
/** What the doctor says of a proxy whose right configuration was changed. */
async function diagnose(kind: ProxyKind, edit: (text: string) => string, trust: 'authority' | 'nothing' = 'authority') {
  const port = await freePort()
  const right = config(kind, port)
  const wrong = edit(right)
  const proxy = await startProxy(kind, wrong, port, dir)
  try {
    return {
      changed: wrong !== right,
      findings: await examine({
        url: new URL(`https://localhost:${port}`),
        ca: trust === 'authority' ? readFileSync(certificate.cert, 'utf8') : undefined,
        authorization: `Basic ${btoa(`admin:${password}`)}`,
        repository: `mcr-doctor/${++repositories}`,
        patienceMs: 2_500,
        uploadBytes: 4 * 2 ** 20,
      }),
    }
  } finally {
    await proxy.stop()
  }
}
const line = (from: string | RegExp, to: string) => (text: string) => text.replaceAll(typeof from === 'string' ? from : from, to)
const inLocation = (more: string) => (text: string) => text.replace('  location / {\n', `  location / {\n${more}\n`)

const nginx: [what: string, edit: (text: string) => string, cure: RegExp][] = [
  ['body-cap', line('client_max_body_size 0;', 'client_max_body_size 1m;'), /client_max_body_size 0;/],
  ['host', line(/proxy_set_header (Host|X-Forwarded-Host) \$http_host;/g, ''), /proxy_set_header Host \$http_host;/],
  ['host', line(/(Host|X-Forwarded-Host) \$http_host;/g, '$1 $host;'), /not \$host, which has no port/],
  ['scheme', line('proxy_set_header X-Forwarded-Proto $scheme;', ''), /X-Forwarded-Proto \$scheme;/],
  ['authorization', inLocation('proxy_set_header Authorization "";'), /proxy_set_header Authorization/],
  ['challenge', inLocation('proxy_hide_header WWW-Authenticate;'), /proxy_hide_header WWW-Authenticate/],
  [
    'path',
    (text) =>
      text.replace(/proxy_pass http:\/\/\$mcr_upstream;/, 'proxy_pass http://mcr_all/;').replace('merge_slashes off;', ''),
    /merge_slashes off;/,
  ],
  ['header-size', line('large_client_header_buffers 8 64k;', ''), /large_client_header_buffers 8 64k;/],
  ['compression', line('gzip off;', 'gzip on; gzip_types application/json; gzip_proxied any;'), /gzip off;/],
  [
    'error-pages',
    (text) =>
      inLocation('proxy_intercept_errors on;')(text).replace('error_page 400 =', 'error_page 404 /404.html; error_page 400 ='),
    /proxy_intercept_errors off;/,
  ],
  ['method', inLocation('limit_except GET POST { deny all; }'), /limit_except/],
  ['request-buffering', line('proxy_request_buffering off;', ''), /proxy_request_buffering off;/],
  ['response-buffering', line('proxy_buffering off;', 'proxy_buffering on;'), /proxy_buffering off;/],
  ['location', line('proxy_redirect off;', 'proxy_redirect / /registry/;'), /proxy_redirect off;/],
  ['timeout', line('client_body_timeout 1h;', 'client_body_timeout 1s;'), /client_body_timeout 1h;/],
  ['headers', line(/ +add_header Docker-Content-Digest [^\n]*\n/g, ''), /mcr routes --nginx --accel/],
  ['grpc', line('grpc_pass grpc://mcr_grpc;', 'return 404;'), /grpc_pass/],
]
const caddy: [what: string, edit: (text: string) => string, cure: RegExp][] = [
  [
    'host',
    line(
      '\tlb_policy round_robin\n',
      '\tlb_policy round_robin\n\theader_up Host registry\n\theader_up X-Forwarded-Host registry\n',
    ),
    /header_up Host/,
  ],
  [
    'authorization',
    line('\tlb_policy round_robin\n', '\tlb_policy round_robin\n\theader_up -Authorization\n'),
    /header_up -Authorization/,
  ],
  ['body-cap', line(/\n\troute \{/g, '\n\trequest_body {\n\t\tmax_size 3MB\n\t}\n\troute {'), /request_body/],
  ['compression', line(/\n\troute \{/g, '\n\tencode {\n\t\tgzip\n\t\tminimum_length 10\n\t}\n\troute {'), /encode/],
  [
    'clock',
    line('\tlb_policy round_robin\n', '\tlb_policy round_robin\n\theader_down Date "Thu, 01 Jan 2026 00:00:00 GMT"\n'),
    /Date/,
  ],
]

for (const [kind, seeds] of [
  ['nginx', nginx],
  ['caddy', caddy],
] as const) {
  test(`${kind}: a right configuration has no finding`, async () => {
    assert.deepEqual((await diagnose(kind, (text) => text)).findings, [])
  })

  test(`${kind}: each of ${seeds.length} mistakes is found, and its cure named`, async () => {
    const missed: string[] = []
    // Some at a time: each waits for what does not come.
    const queue = [...seeds]
    const worker = async () => {
      for (let seed = queue.shift(); seed; seed = queue.shift()) {
        const [what, edit, cure] = seed
        const { changed, findings } = await diagnose(kind, edit)
        assert.ok(changed, `${what}: the seed changes nothing`)
        const found = findings.find((finding) => finding.what === what)
        if (!found || !cure.test(found.cures[kind] ?? ''))
          missed.push(`${what}: ${findings.map((finding) => `${finding.what}: ${finding.says}`).join('; ') || 'nothing found'}`)
      }
    }
    await Promise.all([worker(), worker(), worker(), worker()])
    assert.deepEqual(missed, [])
  })
}

test('a certificate that nobody trusts is found, and whoever has it gets no login', async () => {
  const log = join(dir, 'authorization')
  const { findings } = await diagnose(
    'nginx',
    (text) =>
      `log_format authorization "$http_authorization";\n${text.replace('server_tokens off;', `access_log ${log} authorization;`)}`,
    'nothing',
  )
  assert.deepEqual(
    findings.map(({ what }) => what),
    ['certificate', 'login'],
  )
  assert.match(findings[1]?.says ?? '', /the login was not sent/)
  assert.deepEqual(readFileSync(log, 'utf8').match(/Basic/g), null)
})

test('the clock of a registry whose proxy writes the date itself is found wrong', {
  // In CI a missing tool is a failure.
  skip: faketime || process.env.CI ? false : 'faketime is not installed: .ci/install-clients installs it',
}, async (t) => {
  assert.ok(faketime, 'faketime is not installed')
  const late = spawnRegistry([], {
    ...settings,
    MCR_STORAGE_ROOT: join(dir, 'late'),
    MCR_SERVER_LISTEN_ADDR: `unix:${dir}/late.sock`,
    MCR_SERVER_GRPC_ADDR: '',
    LD_PRELOAD: faketime,
    FAKETIME: '-10m',
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
  })
  t.after(async () => {
    late.kill('SIGTERM')
    await once(late, 'exit')
  })
  await listeningPort(late)
  const { findings } = await diagnose('nginx', line(`unix:${dir}/all`, `unix:${dir}/late.sock`))
  assert.match(findings.find(({ what }) => what === 'clock')?.says ?? JSON.stringify(findings), /differ by (59|60)\d s/)
})

/** A proxy that passes bytes on, and resets connections whose first request `cut` does not like. Shape: its port. */
async function startCutting(t: TestContext, cut: (head: string) => boolean): Promise<number> {
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect(`${dir}/all`)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => undefined).on('close', () => [client, upstream].map((one) => one.destroy()))
    }
    let head = ''
    const read = (chunk: Buffer) => {
      head += chunk.toString('latin1')
      const whole = head.includes('\r\n\r\n')
      if (cut(head)) client.resetAndDestroy()
      else if (whole) {
        client.off('data', read)
        upstream.write(head, 'latin1')
        client.pipe(upstream).pipe(client)
      }
    }
    client.on('data', read)
  })
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return (server.address() as AddressInfo).port
}
const examineCutting = async (port: number, authorization?: string) =>
  await examine({
    url: new URL(`http://localhost:${port}`),
    authorization,
    repository: `mcr-doctor/${++repositories}`,
    patienceMs: 1_000,
    uploadBytes: 2 * 2 ** 20,
  })

test('a proxy that resets connections is found out check by check, and the other checks go on', async (t) => {
  const large = await startCutting(t, (head) => head.length > 8 * 1024)
  const found = await examineCutting(large)
  assert.deepEqual(
    found.map(({ what }) => what),
    ['header-size', 'login'],
  )
  assert.match(found[0]?.says ?? '', /answers nothing: read ECONNRESET/)

  const many = await startCutting(
    t,
    (head) =>
      head.length > 8 * 1024 || /^\S+ \S*\/\/|^HEAD |^GET \/mcr-doctor|^POST .*digest=|content-length: 1073741824/im.test(head),
  )
  const all = await examineCutting(many, `Basic ${btoa(`admin:${password}`)}`)
  assert.deepEqual(all.map(({ what }) => what).sort(), ['body-cap', 'connection', 'connection', 'header-size', 'method', 'path'])
  const cuts = all.filter(({ what }) => what === 'connection').map(({ says }) => says)
  assert.ok(
    cuts.some((says) => /^GET \/mcr-doctor\/nothing with accept-encoding is cut off .*ECONNRESET/.test(says)),
    cuts.join('\n'),
  )
  assert.ok(
    cuts.some((says) => /^POST .*digest=sha256:\S+ with authorization is cut off/.test(says)),
    cuts.join('\n'),
  )
  assert.match(all.find(({ what }) => what === 'body-cap')?.says ?? '', /^a body of 1 GiB is cut off/)

  const command = await run(['doctor', `http://localhost:${large}`])
  assert.equal(command.status, 8)
  assert.match(command.text, /^WRONG header-size: .*\n +nginx: large_client_header_buffers/)
  assert.equal((await run(['doctor', `http://localhost:${await startCutting(t, () => true)}`])).status, 6)
})

/** The command beside what runs in this process. */
async function run(args: string[]): Promise<{ status: number | null; text: string }> {
  const command = spawn(file, [...first, ...args], { env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [command.stdout, command.stderr])
    stream.on('data', (chunk: Buffer) => {
      text += chunk
    })
  const [status] = (await once(command, 'close')) as [number | null]
  return { status, text }
}

const mcr = (args: string[], env: Record<string, string> = {}, input = '') =>
  spawnSync(file, [...first, ...args], { encoding: 'utf8', input, env: { PATH: process.env.PATH, ...env } })

test('the command: 0 and 8 by what it found, 6 where nothing answers, 2 for what is no address', async () => {
  const port = await freePort()
  const right = config('nginx', port)
  const args = ['doctor', `https://localhost:${port}`, '--patience', '1', '--upload', '4']
  const proxy = await startProxy('nginx', right, port, dir)
  const healthy = mcr(['--ca-cert', certificate.cert, ...args])
  assert.equal(healthy.status, 0, healthy.stdout + healthy.stderr)
  assert.match(healthy.stdout, /^note login: without a login/)
  const known = mcr(['--ca-cert', certificate.cert, ...args, '--user', 'admin', '--password-stdin'], {}, `${password}\n`)
  assert.equal(known.stdout, 'nothing is wrong\n')
  await proxy.stop()
  assert.equal(mcr(args).status, 6)
  const bad = await startProxy('nginx', right.replace('client_max_body_size 0;', ''), port, dir)
  const found = mcr(['--json', '--ca-cert', certificate.cert, ...args])
  assert.equal(found.status, 8)
  assert.equal(JSON.parse(found.stdout)[0].cures.nginx, 'client_max_body_size 0;')
  await bad.stop()
  assert.equal(mcr(['doctor', 'registry.example.com/path']).status, 2)
})

test('without an address it looks at this machine', () => {
  const healthy = mcr(['doctor'], settings)
  assert.equal(healthy.status, 0, healthy.stdout)
  const says = (env: Record<string, string>) => {
    const { status, stdout } = mcr(['--json', 'doctor'], { ...settings, ...env })
    return { status, found: (JSON.parse(stdout) as { what: string }[]).map(({ what }) => what) }
  }
  writeFileSync(join(root, 'admin-password'), 'x\n', { mode: 0o600 })
  chmodSync(join(root, 'auth.key'), 0o644)
  const several = says({ MCR_SERVER_TRUSTED_PROXIES: '0.0.0.0/0', MCR_STORAGE_FREE_FLOOR: '900TB' })
  assert.equal(several.status, 8)
  for (const what of ['first-password', 'auth-key', 'trust', 'space']) assert.ok(several.found.includes(what), what)
  rmSync(join(root, 'admin-password'))
  chmodSync(join(root, 'auth.key'), 0o600)
  assert.deepEqual(says({ MCR_STORAGE_ROOT: join(dir, 'none') }), { status: 8, found: ['root'] })
})

test('on this machine a database that is too new is not called corrupted', () => {
  const newer = join(dir, 'newer')
  cpSync(root, newer, { recursive: true, filter: (path) => !/ballast/.test(path) })
  const database = new DatabaseSync(join(newer, 'mcr.db'))
  database.exec(`INSERT INTO mcr_schema(name, sum) VALUES ('9999-later', '')`)
  database.close()
  const { status, stdout } = mcr(['doctor'], { ...settings, MCR_STORAGE_ROOT: newer })
  assert.equal(status, 8)
  assert.match(stdout, /WRONG schema: .*run the version that made it/)
  assert.doesNotMatch(stdout, /corrupted/)
})

test('on this machine somebody else than its user is told so', {
  skip: process.getuid?.() === 0 || process.env.CI ? false : 'setpriv cannot become another user: run as root',
}, (t) => {
  // The executable keeps its driver where only its user can write.
  const native = mkdtempSync(join(tmpdir(), 'mcr-native-'))
  t.after(() => rmSync(native, { recursive: true }))
  chownSync(native, 65_534, 65_534)
  for (const [outer, mode] of [
    [0o700, 0o700],
    [0o755, 0o700],
    [0o755, 0o755],
  ] as const) {
    chmodSync(dir, outer)
    chmodSync(root, mode)
    const words = ['--reuid=65534', '--regid=65534', '--clear-groups', file, ...first, 'doctor']
    const { status, stdout } = spawnSync('setpriv', words, {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, HOME: dir, MCR_NATIVE_DIR: native, ...settings },
    })
    assert.equal(status, 8, mode.toString(8))
    assert.match(stdout, /WRONG rights: .*uid 65534/)
    assert.match(stdout, /run the doctor as the registry's user/)
  }
  chmodSync(root, 0o700)
  chmodSync(dir, 0o700)
})
