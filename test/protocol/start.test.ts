// How the program starts, refuses to start, and ends; and its command line. Runs the build.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { request } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { listeningPort, mcrCommand, password, spawnRegistry, startRegistry } from '../support/process.ts'

const [command, ...words] = mcrCommand()
const scratch = mkdtempSync(join(tmpdir(), 'mcr-start-'))
after(() => rmSync(scratch, { recursive: true, force: true }))
let count = 0
const fresh = () => join(scratch, `root-${++count}`)

const mcr = (args: string[], env: Record<string, string> = {}, input?: string) => {
  const { status, stdout, stderr } = spawnSync(command, [...words, ...args], {
    encoding: 'utf8',
    input,
    timeout: 20_000,
    env: { PATH: process.env.PATH, MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0', ...env },
  })
  return { status, text: `${stdout}${stderr}` }
}

test('it does not start where data could be lost or read, and says what to change', async () => {
  const open = fresh()
  mkdirSync(open)
  chmodSync(open, 0o777)
  const linked = fresh()
  mkdirSync(linked, { mode: 0o700 })
  symlinkSync('/tmp', join(linked, 'blobs'))
  const foreign = fresh()
  mkdirSync(foreign, { mode: 0o700 })
  spawnSync(process.execPath, [
    '-e',
    `const D = require('libsql'); const db = new D('${foreign}/mcr.db'); db.exec('CREATE TABLE theirs (x)')`,
  ])
  const key = fresh()
  mkdirSync(key, { mode: 0o700 })
  writeFileSync(join(key, 'auth.key'), 'x', { mode: 0o644 })
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const address = `127.0.0.1:${(taken.address() as AddressInfo).port}`
  const rows: [what: string, env: Record<string, string>, status: number, text: RegExp][] = [
    [
      'an address that is taken',
      { MCR_STORAGE_ROOT: fresh(), MCR_SERVER_LISTEN_ADDR: address },
      1,
      /another program listens on 127/,
    ],
    ['a root that others can write', { MCR_STORAGE_ROOT: open }, 1, /can be written by others: chmod/],
    ['a linked blob directory', { MCR_STORAGE_ROOT: linked }, 1, /blobs/],
    ["another program's database", { MCR_STORAGE_ROOT: foreign }, 1, /belongs to another program/],
    ['a key that others can read', { MCR_STORAGE_ROOT: key }, 1, /auth\.key can be read by others/],
    [
      'two file systems',
      { MCR_STORAGE_ROOT: fresh(), MCR_STORAGE_UPLOADS_PATH: '/dev/shm/mcr-test-uploads' },
      1,
      /two file systems/,
    ],
    [
      'plain HTTP off loopback',
      { MCR_STORAGE_ROOT: fresh(), MCR_SERVER_LISTEN_ADDR: '0.0.0.0:0' },
      1,
      /passwords in the clear.*--tls self-signed/s,
    ],
    ['a bad configuration', { MCR_STORAGE_ROOT: fresh(), MCR_LIMITS_RANGES: 'x' }, 2, /limits\.ranges/],
    ['an unknown handler', { MCR_STORAGE_ROOT: fresh() }, 1, /no handler is called oci\/none/],
  ]
  writeFileSync(join(scratch, 'none.toml'), 'handlers = ["oci/none"]\njobs = []\n')
  for (const [what, env, status, text] of rows) {
    const result = mcr(['serve', ...(what === 'an unknown handler' ? ['--mount', join(scratch, 'none.toml')] : [])], env)
    assert.equal(result.status, status, `${what}: ${result.text}`)
    assert.match(result.text, text, what)
  }
  taken.close()
  rmSync('/dev/shm/mcr-test-uploads', { recursive: true, force: true })
})

test('a database newer than the program is refused', async () => {
  const registry = await startRegistry()
  await registry.stop()
  spawnSync(process.execPath, [
    '-e',
    `const D = require('libsql'); const db = new D('${registry.dir}/mcr.db'); db.exec("INSERT INTO mcr_schema(name, sum, compatible_from) VALUES ('9999-future', 'x', '9998')")`,
  ])
  const { status, text } = mcr(['serve'], { MCR_STORAGE_ROOT: registry.dir })
  assert.equal(status, 1)
  assert.match(text, /9999-future, which this version does not know.*newest migration is 9998 or later/)
  await registry.remove()
})

test('the first start makes an admin with a random password in a 0600 file, which goes with its first use', async () => {
  const root = fresh()
  const child = spawnRegistry([], { MCR_STORAGE_ROOT: root, MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0' })
  const port = await listeningPort(child)
  const file = join(root, 'admin-password')
  assert.equal(statSync(file).mode & 0o777, 0o600)
  const secret = readFileSync(file, 'utf8').trim()
  assert.ok(secret.length >= 20)
  const login = async (name: string, word: string) =>
    (await fetch(`http://127.0.0.1:${port}/v2/`, { headers: { authorization: `Basic ${btoa(`${name}:${word}`)}` } })).status
  assert.equal(await login('admin', 'admin'), 401)
  assert.equal(await login('admin', secret), 200)
  assert.ok(!existsSync(file))
  child.kill('SIGTERM')
  await once(child, 'exit')
})

test('accounts are kept by the command line while the registry runs', async () => {
  const registry = await startRegistry()
  const env = { MCR_STORAGE_ROOT: registry.dir }
  const login = async (name: string, word: string) =>
    (await fetch(`${registry.url}/v2/`, { headers: { authorization: `Basic ${btoa(`${name}:${word}`)}` } })).status
  const added = mcr(['account', 'add', 'ci', '--system', '--generate'], env)
  assert.equal(added.status, 0, added.text)
  const first = /password: (\S+)/.exec(added.text)?.[1] as string
  assert.equal(await login('ci', first), 200)
  assert.equal(mcr(['account', 'add', 'ci', '--generate'], env).status, 5)
  assert.equal(mcr(['account', 'add', '../x', '--generate'], env).status, 2)
  assert.equal(mcr(['account', 'passwd', 'ci', '--password-stdin'], env, 'a new password\n').status, 0)
  assert.equal(await login('ci', first), 401)
  assert.equal(await login('ci', 'a new password'), 200)
  assert.equal(mcr(['account', 'passwd', 'nobody', '--generate'], env).status, 4)
  const listed = JSON.parse(mcr(['account', 'list', '--json'], env).text) as {
    accounts: { name: string; account_type: string }[]
  }
  assert.deepEqual(
    listed.accounts.map(({ name, account_type: kind }) => `${name} ${kind}`),
    ['admin human', 'ci system'],
  )
  await registry.remove()
})

test('help, version, init, config, routes; wrong usage is 2', () => {
  assert.equal(mcr(['--version']).text.trim(), JSON.parse(readFileSync('package.json', 'utf8')).version)
  assert.match(mcr(['--help']).text, /Examples:/)
  assert.equal(mcr(['--nonsense']).status, 2)
  assert.equal(mcr(['serve', '--tls', 'magic']).status, 2)
  const folder = fresh()
  assert.equal(mcr(['init', folder]).status, 0)
  assert.equal(mcr(['init', folder]).status, 1, 'nothing is overwritten')
  assert.equal(mcr(['--config', join(folder, 'mcr.toml'), 'config', 'check']).status, 0)
  assert.match(mcr(['routes']).text, /^PUT +\/v2\/:name\+\/manifests\/:reference +oci\/manifest-put +all,/m)
  assert.ok(!mcr(['config', 'show'], { MCR_AUTH_BOOTSTRAP_PASSWORD: 'correct horse' }).text.includes('correct horse'))
})

const unshare = ['unshare', '--mount', ...(process.getuid?.() === 0 ? [] : ['--map-root-user'])] as const
const mayMount = spawnSync(unshare[0], [...unshare.slice(1), 'mount', '-t', 'tmpfs', 'tmpfs', '/etc']).status === 0
/** The command on a host where mcr install was: with an /etc of its own, whose mcr/mcr.toml has that text. */
function onInstalledHost(text: string, mode: '0640' | '0000', args: string[], cwd: string) {
  const script =
    'mount -t tmpfs tmpfs /etc && mkdir /etc/mcr && printf %s "$1" >/etc/mcr/mcr.toml && chmod "$2" /etc/mcr/mcr.toml && shift 2 && exec "$@"'
  // Root without these may read what its mode lets it read, as others may.
  const asOthers = ['setpriv', '--bounding-set', '-dac_override,-dac_read_search']
  const all = [...unshare.slice(1), 'sh', '-c', script, 'sh', text, mode, ...asOthers, command, ...words, ...args]
  const { status, stdout, stderr } = spawnSync(unshare[0], all, {
    encoding: 'utf8',
    cwd,
    env: { PATH: process.env.PATH, HOME: cwd },
  })
  return { status, text: `${stdout}${stderr}` }
}

test('where no other file is named, the one that mcr install wrote counts; who may not read it is told who may', {
  // In CI it must be able to.
  skip: mayMount || process.env.CI ? false : 'unshare cannot mount for this user: run as root, or allow user namespaces',
}, async (t) => {
  const registry = await startRegistry()
  const cwd = fresh()
  mkdirSync(cwd)
  t.after(() => registry.remove())
  const installed = `[storage]\nroot = "${registry.dir}"\n`
  const checked = onInstalledHost(installed, '0640', ['config', 'check'], cwd)
  assert.match(checked.text, /good \(\/etc\/mcr\/mcr\.toml, 1 keys set\)/)
  const taken = onInstalledHost(installed, '0640', ['snapshot', join(cwd, 'backup')], cwd)
  assert.equal(taken.status, 0, taken.text)

  const refused = onInstalledHost(installed, '0000', ['account', 'list'], cwd)
  assert.equal(refused.status, 2, refused.text)
  assert.match(refused.text, /\/etc\/mcr\/mcr\.toml \(file\): a file that this user can read: .*sudo -u mcr mcr/)
  const remote = onInstalledHost(installed, '0000', ['--server', registry.url.replace('localhost', '127.0.0.1'), 'health'], cwd)
  assert.equal(remote.status, 0, remote.text)

  writeFileSync(join(cwd, 'mcr.toml'), '')
  assert.match(onInstalledHost(installed, '0000', ['config', 'check'], cwd).text, /good \(mcr\.toml, 0 keys set\)/)
})

test('--tls self-signed serves HTTPS and says how clients trust it', async () => {
  const root = fresh()
  const child = spawn(command, [...words, 'serve', '--tls', 'self-signed'], {
    env: { PATH: process.env.PATH, MCR_STORAGE_ROOT: root, MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0', MCR_LOG_FORMAT: 'json' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk
  })
  const port = await listeningPort(child)
  const status = spawnSync(
    'curl',
    ['-sS', '-o', '/dev/null', '-w', '%{http_code}', '--cacert', join(root, 'tls/cert.pem'), `https://localhost:${port}/v2/`],
    { encoding: 'utf8' },
  )
  assert.equal(status.stdout, '401', status.stderr)
  for (let wait = 0; wait < 50 && !text.includes('certs.d'); wait++) await new Promise((resolve) => setTimeout(resolve, 20))
  assert.match(text, /docker: +mkdir -p \/etc\/docker\/certs\.d/)
  assert.equal(statSync(join(root, 'tls/key.pem')).mode & 0o777, 0o600)
  child.kill('SIGTERM')
  await once(child, 'exit')
})

test('SIGTERM lets a running upload end, takes nothing new, and exits 0', async () => {
  const registry = await startRegistry()
  const authorization = `Basic ${btoa(`admin:${password}`)}`
  const location = (
    await fetch(`${registry.url}/v2/drain/app/blobs/uploads/`, { method: 'POST', headers: { authorization } })
  ).headers.get('location') as string
  const answered = new Promise<number>((resolve, reject) => {
    const req = request(
      `${registry.url}${location}`,
      { method: 'PATCH', headers: { authorization, 'content-length': 10 } },
      (res) => {
        res.resume()
        resolve(res.statusCode ?? 0)
      },
    )
    req.on('error', reject)
    req.write('12345')
    setTimeout(() => req.end('67890'), 600)
  })
  await new Promise((resolve) => setTimeout(resolve, 200))
  process.kill(registry.pid, 'SIGTERM')
  await new Promise((resolve) => setTimeout(resolve, 100))
  await assert.rejects(fetch(`${registry.url}/v2/`))
  assert.equal(await answered, 202)
  await registry.remove()
})

test('/livez and /readyz are open, /metrics asks for system:read; the log holds no secret', async () => {
  const root = fresh()
  const child = spawnRegistry([], {
    MCR_STORAGE_ROOT: root,
    MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
    MCR_AUTH_BOOTSTRAP_PASSWORD: 'canary-password-1',
  })
  let log = ''
  child.stdout?.on('data', (chunk: Buffer) => {
    log += chunk
  })
  const url = `http://127.0.0.1:${await listeningPort(child)}`
  const authorization = `Basic ${btoa('admin:canary-password-1')}`
  for (const path of ['/livez', '/readyz']) assert.equal((await fetch(`${url}${path}`)).status, 200)
  assert.equal((await fetch(`${url}/metrics`)).status, 401)
  const metrics = await fetch(`${url}/metrics`, { headers: { authorization } })
  assert.match(await metrics.text(), /mcr_requests_total\{.*\} [1-9]/)
  const { token } = (await (await fetch(`${url}/v2/token`, { headers: { authorization } })).json()) as { token: string }
  await fetch(`${url}/v2/`, { headers: { authorization: `Bearer ${token}` } })
  await fetch(`${url}/v2/x\u202e%0aforged/tags/list`, { headers: { authorization, 'user-agent': 'line\tbreak' } })
  child.kill('SIGTERM')
  await once(child, 'close')
  for (const secret of ['canary-password-1', token, authorization.slice(6)]) assert.ok(!log.includes(secret))
  for (const line of log.trim().split('\n')) JSON.parse(line)
})
