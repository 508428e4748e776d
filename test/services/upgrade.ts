// An upgrade as an administrator makes it, while real clients push and pull: the version before and this one beside each other over one
// database, the program replaced by reload and by restart, the way back, and an upload that is open all the time. Nobody may notice.
// `npm run test:upgrade -- --from <commit>`. A machine with a real systemd; the version before is built from the project's history.
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startClients } from '../support/client-load.ts'
import { startLoad } from '../support/load.ts'
import { startMachine } from '../support/machine.ts'
import { makeCertificate, password } from '../support/process.ts'

/** The last commit with fewer migrations than there are now. */
const before = '4146715'
const { values } = parseArgs({
  options: {
    from: { type: 'string', default: before },
    rounds: { type: 'string', default: '3' },
    slice: { type: 'boolean', default: false },
  },
})
const rounds = values.slice ? 1 : Number(values.rounds)
const host = 'localhost:5000'
const beside = 'localhost:5001'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-upgrade-'))
const { cert, key } = makeCertificate(scratch)
const old = buildOld(values.from)
const machine = await startMachine()
const { run, write } = machine
const programs = { old: '/opt/mcr-old', new: '/opt/mcr' }
const versions = { old: '0.0.0-before', new: (JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version }
let failed = false
try {
  cpSync(old, machine.path(programs.old), { recursive: true })
  symlinkSync('/opt/mcr/node_modules', machine.path(`${programs.old}/node_modules`))
  await run('chmod', '-R', 'a+rX', programs.old)
  for (const [name, text] of [
    ['cert', readFileSync(cert, 'utf8')],
    ['key', readFileSync(key, 'utf8')],
  ] as const)
    write(`/etc/mcr/${name}.pem`, text, name === 'key' ? 0o640 : 0o644)
  await run('chgrp', 'mcr', '/etc/mcr/key.pem')
  write(
    '/etc/mcr/mcr.toml',
    `[storage]\nroot = "/var/lib/mcr"\nfree_floor = "0B"\n[auth]\nbootstrap_password = "${password}"\n[server]\nworkers = 2\ntls_cert = "/etc/mcr/cert.pem"\ntls_key = "/etc/mcr/key.pem"\n`,
  )
  write('/usr/local/bin/mcr', `#!/bin/sh\nexec ${programCommand('/opt/mcr-current')} "$@"\n`, 0o755)
  await place('old')
  await run('systemctl', 'enable', '--now', 'mcr.socket')
  // Nobody connects before the first start is over: a client gives a TLS handshake ten seconds.
  await run('systemctl', 'start', 'mcr.service')
  await untilServes('old')
  const load = await startLoad(machine, { address: host, password, ca: cert })
  const clients = startClients(machine, { host, password, ca: cert, scratch })
  await load.more(20)
  const known = await migrations()
  const upload = await beginUpload()
  console.log(`the version before (${values.from}) serves, its newest migration is ${known.at(-1)}`)

  // Both over one database: the new one migrates it under the old one.
  write(
    '/run/systemd/system/mcr-beside.service',
    (await run('cat', '/etc/systemd/system/mcr.service'))
      .replace('/usr/local/bin/mcr', programCommand(programs.new))
      .replace('[Service]', `[Service]\nEnvironment=MCR_SERVER_LISTEN_ADDR=127.0.0.1:5001`),
  )
  await run('systemctl', 'daemon-reload')
  await run('systemctl', 'start', 'mcr-beside')
  await run(
    'curl',
    '-sS',
    '--cacert',
    '/etc/mcr/cert.pem',
    '--retry',
    '60',
    '--retry-delay',
    '1',
    '--retry-connrefused',
    '--fail',
    `https://${beside}/readyz`,
  )
  const second = await startLoad(machine, { address: beside, name: 'beside', password, ca: cert })
  const [here, there] = [load.answered(), 100]
  await Promise.all([load.more(here + 100), second.more(there)])
  const ran = (await migrations()).filter((name) => !known.includes(name))
  if (ran.length === 0) throw new Error(`${values.from} has every migration that there is now: name an older commit by --from`)
  console.log(
    `side by side: ${load.answered() - here} requests of the old and ${second.answered()} of the new version, which ran ${ran.join(', ')}`,
  )
  const besideReport = await second.stop()
  await run('systemctl', 'stop', 'mcr-beside')

  for (let round = 1; round <= rounds; round++) {
    for (const [version, how] of [
      ['new', 'reload'],
      ['new', 'restart'],
      ['old', 'reload'],
      ['new', 'reload'],
    ] as const) {
      await place(version)
      const answered = load.answered()
      await run('systemctl', 'reset-failed', 'mcr.service')
      await run('systemctl', how, 'mcr.service')
      await untilServes(version)
      await load.more(answered + 20)
      console.log(
        `round ${round}: ${version} by ${how}: ${load.answered()} requests asked once, ${clients.counts().pushes} pushes and ${clients.counts().pulls} pulls by clients`,
      )
    }
  }
  const seen = clients.counts().pulls
  for (let waited = 0; clients.counts().pulls < seen + 3 && clients.counts().failures.length === 0 && waited < 600; waited++)
    await sleep(100)
  const finished = await finishUpload(upload)
  await clients.stop()
  const { answered, failures: asked } = await load.stop()
  const { pushes, pulls, failures } = clients.counts()
  const all = [...failures, ...asked, ...besideReport.failures, ...(finished === '201' ? [] : [`the open upload: ${finished}`])]
  for (const failure of all) console.log(`FAIL  ${failure}`)
  failed = all.length > 0 || pushes === 0 || pulls === 0
  console.log(
    `${4 * rounds} replacements; ${pushes} pushes and ${pulls} pulls by crane, oras and skopeo, ${answered + besideReport.answered} requests that are asked once, the upload begun in the old version finished in the new (${finished}): ${all.length} failures`,
  )
} catch (error) {
  failed = true
  console.log(error)
} finally {
  if (failed) console.log(await run('sh', '-c', `journalctl --no-pager | grep -v '"status":[234]' | tail -60`).catch(String))
  await machine.stop()
  for (const path of [scratch, old]) rmSync(path, { recursive: true, force: true })
}
process.exit(failed ? 1 : 0)

/** Builds a commit of this project's history. Shape: the folder that has its `dist`. */
function buildOld(commit: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'mcr-old-'))
  const git = (...args: string[]) => execFileSync('git', args, { encoding: 'utf8', maxBuffer: 2 ** 30 })
  try {
    git('cat-file', '-e', `${commit}^{commit}`)
  } catch {
    console.error(`NOT RUN: the history of this checkout does not have ${commit}: git fetch --unshallow`)
    // A gate that was given files without their history has nothing to build the version before from.
    process.exit(values.slice ? 0 : 1)
  }
  const archive = execFileSync('git', ['archive', commit], { maxBuffer: 2 ** 30 })
  const source = join(folder, 'source')
  execFileSync('sh', ['-c', `mkdir "$1" && tar -x -C "$1"`, 'sh', source], { input: archive })
  symlinkSync(join(process.cwd(), 'node_modules'), join(source, 'node_modules'))
  // The two have one version number until there are releases; here they must be told apart.
  const about = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8')) as { version: string }
  writeFileSync(join(source, 'package.json'), JSON.stringify({ ...about, version: '0.0.0-before' }))
  execFileSync(process.execPath, ['esbuild.config.mjs'], { cwd: source, stdio: ['ignore', 'ignore', 'inherit'] })
  cpSync(join(source, 'dist'), join(folder, 'dist'), { recursive: true })
  rmSync(source, { recursive: true })
  console.log(
    `built ${git('log', '-1', '--format=%h %s', commit).trim()}, ${git('ls-tree', '--name-only', commit, 'migrations/').trim().split('\n').length} migrations; here there are ${readdirSync('migrations').length}`,
  )
  return folder
}

/** The program of a version. `current` is where the units start it from. */
function programCommand(where: string): string {
  return `/opt/mcr/${relative(process.cwd(), process.execPath)} ${where}/dist/mcr.cjs`
}

/** Puts a version where the units start it from, as an installation does: beside it, and renamed. */
async function place(version: 'old' | 'new'): Promise<void> {
  await run('ln', '-sfn', programs[version], '/opt/mcr-next')
  await run('mv', '-T', '/opt/mcr-next', '/opt/mcr-current')
}

/** Waits until two workers of a version serve and none of the other does. */
async function untilServes(version: 'old' | 'new'): Promise<void> {
  let seen = ''
  for (let waited = 0; waited < 600; waited++) {
    seen = (await curl(`https://${host}/metrics`)).match(/^mcr_(info|workers)\b.*$/gm)?.join(', ') ?? ''
    if (seen.includes(`version="${versions[version]}"`) && seen.split('version=').length === 2 && seen.includes('mcr_workers 2'))
      return
    await sleep(200)
  }
  throw new Error(`the ${version} version does not serve alone: ${seen}`)
}

async function migrations(): Promise<string[]> {
  const script = `const D = require('libsql'); const db = new D('file:/var/lib/mcr/mcr.db?mode=ro'); console.log(JSON.stringify(db.prepare('SELECT name FROM mcr_schema ORDER BY name').all().map((row) => row.name)))`
  const node = `/opt/mcr/${relative(process.cwd(), process.execPath)}`
  return JSON.parse(await run('sh', '-c', `cd /opt/mcr && exec "$0" -e "$1"`, node, script)) as string[]
}

async function beginUpload(): Promise<string> {
  const head = await curl('-D', '-', '-X', 'POST', `https://${host}/v2/load/open/blobs/uploads/`)
  const location = /^location: (\S+)/im.exec(head)?.[1] as string
  await curl(
    '-X',
    'PATCH',
    '--data-binary',
    'begun in the version before, ',
    '-H',
    'Content-Type: application/octet-stream',
    `https://${host}${location}`,
  )
  return location
}

/** Shape: the status of the answer to the last request. */
async function finishUpload(location: string): Promise<string> {
  await curl(
    '-X',
    'PATCH',
    '--data-binary',
    'finished in this one',
    '-H',
    'Content-Type: application/octet-stream',
    `https://${host}${location}`,
  )
  const digest = execFileSync('sha256sum', {
    input: 'begun in the version before, finished in this one',
    encoding: 'utf8',
  }).slice(0, 64)
  return await curl(
    '-o',
    '/dev/null',
    '-w',
    '%{http_code}',
    '-X',
    'PUT',
    '-H',
    'Content-Length: 0',
    `https://${host}${location}?digest=sha256:${digest}`,
  )
}

async function curl(...args: string[]): Promise<string> {
  return await run('curl', '-sS', '--cacert', '/etc/mcr/cert.pem', '-u', `admin:${password}`, ...args)
}
