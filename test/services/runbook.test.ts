// The runbook as it is written, on a machine with a real systemd: the commands are those of docs/operations.md. With MCR_TEST_COMMAND the
// executable installs itself there, and takes itself away at the end.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, test } from 'node:test'
import { startMachine } from '../support/machine.ts'
import { emptyJson, ociManifest, sha256 } from '../support/oci.ts'
import { password } from '../support/process.ts'

const machine = await startMachine()
after(() => machine.stop())
const { run, write } = machine
const page = readFileSync('docs/operations.md', 'utf8')

/** The commands of a section, without those that name what only its reader has. */
function commands(heading: string): string {
  const section = page.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) as string
  const blocks = [...section.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map((match) => match[1])
  return blocks.join('').replace(/^.*( --at | mcr serve$).*\n/gm, '')
}
/** As `sudo` does. */
const as = { root: ['HOME=/root'], mcr: ['HOME=/var/lib/mcr', 'runuser', '-u', 'mcr', '--'] }
/** Runs them as this user, in the order of the page; the first that fails ends it. */
const follow = (user: keyof typeof as, script: string) => run('env', ...as[user], 'sh', '-exc', script)

const url = 'http://127.0.0.1:5000'
const curl = (...args: string[]) => run('curl', '-sS', '--fail', '-u', `admin:${password}`, ...args)
const layer = 'a layer '.repeat(50_000)
async function push(tag: string): Promise<void> {
  for (const content of [layer, '{}']) {
    write('/tmp/content', content)
    const type = 'content-type: application/octet-stream'
    await curl('--data-binary', '@/tmp/content', '-H', type, `${url}/v2/team/app/blobs/uploads/?digest=${sha256(content)}`)
  }
  const layers = [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: sha256(layer), size: layer.length }]
  write('/tmp/content', JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: emptyJson, layers }))
  const type = `content-type: ${ociManifest}`
  await curl('-X', 'PUT', '--data-binary', '@/tmp/content', '-H', type, `${url}/v2/team/app/manifests/${tag}`)
}
async function pull(tag: string): Promise<void> {
  await curl('-o', '/dev/null', `${url}/v2/team/app/manifests/${tag}`)
  assert.equal(await curl(`${url}/v2/team/app/blobs/${sha256(layer)}`), layer)
}

test('back up, restore, and the drill', async () => {
  write('/etc/mcr/mcr.toml', `[storage]\nroot = "/var/lib/mcr"\nfree_floor = "0B"\n[auth]\nbootstrap_password = "${password}"\n`)
  await run('systemctl', 'enable', '--now', 'mcr.socket', 'mcr.service')
  await push('v1')
  const backUp = commands('Back up')
  await follow('root', 'install -d -o mcr -g mcr -m 700 /backup')
  assert.ok(page.includes('install -d -o mcr -g mcr -m 700 /backup`'))
  await follow('mcr', backUp.replace(/^systemctl.*\n/m, ''))
  await follow('root', (/^systemctl.*$/m.exec(backUp) as RegExpExecArray)[0])
  await run('systemctl', 'start', 'mcr-snapshot.service')
  await follow('mcr', 'mcr restore --verify /var/lib/mcr-snapshots && mcr restore --verify /backup/mcr.tar')
  const said = await follow('root', commands('Restore'))
  assert.match(said, /all is there/)
  assert.equal(await run('find', '/srv/mcr-new', '!', '-user', 'mcr'), '')
  await follow('mcr', commands('The drill'))
})

test('a corrupted database is restored while clients knock at the socket', async () => {
  await run('dd', 'if=/dev/urandom', 'of=/var/lib/mcr/mcr.db', 'bs=4096', 'count=16', 'conv=notrunc')
  await assert.rejects(async () => {
    await run('systemctl', 'restart', 'mcr.service')
    await curl('-m', '5', '-o', '/dev/null', `${url}/v2/team/app/manifests/v1`)
  })
  await run('sh', '-c', `(until test -e /tmp/healed; do curl -s -m 1 ${url}/v2/; done) >/dev/null 2>&1 &`)
  const said = await follow('root', commands('The database is corrupted'))
  assert.match(said, /all is there/)
  write('/tmp/healed', '')
  await pull('v1')
  await push('v2')
  await pull('v2')
  assert.equal(await run('find', '/var/lib/mcr', '!', '-user', 'mcr'), '')
  for (const unit of ['mcr.socket', 'mcr.service', 'mcr-snapshot.timer'])
    assert.equal((await run('systemctl', 'is-active', unit)).trim(), 'active', unit)
})

test('to move it, nothing is left that could write', async () => {
  const [stop, disable] = commands('Move to another machine').split('\n') as [string, string]
  await follow('root', `${stop}\n${disable}`)
  const left = await run('systemctl', 'list-units', '--no-legend', '--state=active,activating', 'mcr[.@-]*')
  assert.equal(left.trim(), '')
  await assert.rejects(curl(`${url}/v2/`), /connect/)
})

// The bundle has not put itself there.
if (process.env.MCR_TEST_COMMAND)
  test('the executable takes itself away while clients knock at the socket', async () => {
    await run('systemctl', 'enable', '--now', 'mcr.socket', 'mcr.service')
    await run('sh', '-c', `(until test -e /tmp/gone; do curl -s -m 1 ${url}/v2/; sleep 0.02; done) >/dev/null 2>&1 &`)
    await run('mcr', 'uninstall')
    write('/tmp/gone', '')
    await assert.rejects(curl(`${url}/v2/`), /connect/)
    assert.equal((await run('sh', '-c', 'systemctl is-active mcr.service || true')).trim(), 'inactive')
    await run('sh', '-c', '! ls /etc/systemd/system | grep mcr')
    await run('test', '-e', '/var/lib/mcr/mcr.db')
  })
