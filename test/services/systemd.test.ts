// The units under a real systemd: they verify, are closed enough, serve from systemd's sockets, and are replaced without a request lost.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startLoad } from '../support/load.ts'
import { type Machine, startMachine } from '../support/machine.ts'
import { sha256 } from '../support/oci.ts'

const units = readdirSync('deploy/systemd').sort()
const read = (unit: string) => readFileSync(join('deploy/systemd', unit), 'utf8')
const machine: Machine = await startMachine()
after(() => machine.stop())
const password = 'correct-horse-battery'
const settings = (server: string) =>
  `[storage]\nroot = "/var/lib/mcr"\nfree_floor = "0B"\n[auth]\nbootstrap_password = "${password}"\n[server]\n${server}`

test('every unit verifies, and every service is at 2.0 or better', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mcr-units-'))
  for (const unit of units) writeFileSync(join(folder, unit), read(unit).replaceAll('/usr/local/bin/mcr', process.execPath))
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', ...units.map((unit) => join(folder, unit))], {
    encoding: 'utf8',
  })
  assert.deepEqual([status, stderr], [0, ''])
  rmSync(folder, { recursive: true })
  for (const unit of units.filter((name) => name.endsWith('.service')))
    execFileSync(
      'systemd-analyze',
      ['security', '--offline=true', '--threshold=20', '--no-pager', join('deploy/systemd', unit)],
      { stdio: 'pipe' },
    )
})

test('the documentation names every unit', () => {
  const text = readFileSync('docs/services.md', 'utf8')
  for (const unit of units) assert.ok(text.includes(`\`${unit}\``), unit)
})

test('the socket is there before the registry; a restart and a reload lose no request', async () => {
  const { run, write } = machine
  write('/etc/mcr/mcr.toml', settings(''))
  await run('systemctl', 'enable', '--now', 'mcr.socket')
  assert.match(await run('systemctl', 'show', '-p', 'ActiveState', 'mcr.service'), /inactive/)
  const [curl, words] = machine.inNetwork('curl', ['-sS', '--fail', '-u', `admin:${password}`, 'http://127.0.0.1:5000/v2/'])
  assert.equal(
    execFileSync(curl, words, { encoding: 'utf8' }).trim(),
    '{}',
    'the first request starts the registry and is answered',
  )

  const load = await startLoad(machine, { address: '127.0.0.1:5000', password })
  const mainPid = async () => await run('systemctl', 'show', '-p', 'MainPID', 'mcr.service')
  for (let round = 0; round < 2; round++) {
    const before = await mainPid()
    const answered = load.answered()
    await run('systemctl', 'restart', 'mcr.service')
    assert.notEqual(await mainPid(), before)
    await load.more(answered + 20)
  }
  write('/etc/mcr/mcr.toml', settings('workers = 2\n'))
  await run('systemctl', 'restart', 'mcr.service')
  await load.more(load.answered() + 20)
  const parent = await mainPid()
  const workers = async () => await run('pgrep', '-P', parent.replace(/\D/g, ''))
  const before = (await workers()).split('\n')
  await run('systemctl', 'reload', 'mcr.service')
  for (let waited = 0; (await workers()).split('\n').some((pid) => pid !== '' && before.includes(pid)); waited++) {
    assert.ok(waited < 300, 'the old workers are still there')
    await sleep(200)
  }
  assert.equal(await mainPid(), parent)
  await load.more(load.answered() + 20)
  const { failures, answered } = await load.stop()
  assert.deepEqual(failures, [])
  assert.ok(answered > 80)
  assert.match(await run('systemctl', 'show', '-p', 'NRestarts', 'mcr.service'), /=0$/m)
})

test('a proxy in the registry’s group sends blobs after a restart of the unit, and reads nothing else', async () => {
  const { run, write } = machine
  const proxied = `trusted_proxies = ["127.0.0.1"]\naccel = "nginx"\n`
  write('/etc/mcr/mcr.toml', settings(proxied))
  await run('usermod', '-aG', 'mcr', 'www-data')
  await run('systemctl', 'restart', 'mcr.service')
  const blob = join(machine.path('/tmp'), 'blob')
  const content = randomBytes(1_000_003)
  writeFileSync(blob, content)
  const digest = sha256(content)
  const curl = (...args: string[]) => run('curl', '-sS', '--fail', '-u', `admin:${password}`, ...args)
  const posted = `http://127.0.0.1:5000/v2/team/app/blobs/uploads/?digest=${digest}`
  await curl('--data-binary', '@/tmp/blob', '-H', 'content-type: application/octet-stream', posted)
  await run('systemctl', 'start', 'mcr-snapshot.service')
  const site = ['--upstream', 'all=127.0.0.1:5000', '--site', 'http://localhost:8080', '--bind', '127.0.0.1', '--accel']
  const config = await run('mcr', '--config', '/etc/mcr/mcr.toml', 'routes', '--nginx', ...site)
  await run('sh', '-c', 'rm -f /etc/nginx/sites-enabled/* /etc/nginx/conf.d/*')
  write('/etc/nginx/conf.d/mcr.conf', config)
  await run('systemctl', 'start', 'nginx')
  await run('systemctl', 'restart', 'mcr.service')
  await curl('-o', '/tmp/back', `http://localhost:8080/v2/team/app/blobs/${digest}`)
  await run('cmp', '/tmp/blob', '/tmp/back')
  // What the proxy's user can open, of all that is there.
  const paths = (await run('find', '/var/lib/mcr', '/var/lib/mcr-snapshots', '-type', 'f')).trim().split('\n')
  for (const path of ['mcr.db', 'auth.key']) assert.ok(paths.includes(`/var/lib/mcr/${path}`), path)
  assert.ok(paths.some((path) => path.startsWith('/var/lib/mcr-snapshots/blobs/')))
  const open = await run(
    'runuser',
    '-u',
    'www-data',
    '--',
    'sh',
    '-c',
    'for f; do test ! -r "$f" || echo "$f"; done',
    'sh',
    ...paths,
  )
  assert.ok(open.includes(digest.slice(7)))
  assert.deepEqual(
    open
      .trim()
      .split('\n')
      .filter((path) => !path.startsWith('/var/lib/mcr/blobs/sha256/')),
    [],
  )
  await run('systemctl', 'stop', 'nginx')
})

test('the parts serve on sockets of their own, and the timer asks for a collection', async () => {
  const { run } = machine
  await run('systemctl', 'stop', 'mcr.service', 'mcr.socket')
  const [line] = /^systemctl enable --now mcr-grpc.*$/m.exec(readFileSync('docs/services.md', 'utf8')) as RegExpExecArray
  await run('sh', '-c', line)
  const status = (part: string, path: string) =>
    run(
      'curl',
      '-sS',
      '-o',
      '/dev/null',
      '-w',
      '%{http_code}',
      '-u',
      `admin:${password}`,
      '--unix-socket',
      `/run/mcr/${part}.sock`,
      `http://localhost${path}`,
    )
  assert.equal(await status('pull', '/v2/_catalog'), '200')
  assert.equal(await status('push', '/v2/_catalog'), '421')
  assert.equal(await status('auth', '/v2/token'), '200')
  const grpc = ['--http2-prior-knowledge', '--unix-socket', '/run/mcr/grpc.sock', '-H', 'content-type: application/grpc']
  assert.match(
    await run('curl', '-sS', '-D', '-', ...grpc, '--data-binary', '@/dev/null', 'http://localhost/mcr.v1.AdminService/GetStatus'),
    /content-type: application\/grpc/,
  )
  assert.equal((await run('stat', '-c', '%a %U %G', '/run/mcr/pull.sock')).trim(), '660 mcr www-data')
  await run('systemctl', 'start', 'mcr-gc.service')
  await run('systemctl', 'start', 'mcr-gc.timer')
  assert.match(await run('systemctl', 'list-timers', '--no-pager'), /mcr-gc\.timer +mcr-gc\.service/)
})
