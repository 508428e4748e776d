// mcr install and mcr uninstall, into a directory instead of this machine.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  appendFileSync,
  chownSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, beforeEach, test } from 'node:test'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-install-'))
after(() => rmSync(scratch, { recursive: true, force: true }))
let root = ''
let count = 0
/** A system with nothing but root. */
beforeEach(() => {
  root = join(scratch, `root-${++count}`)
  mkdirSync(join(root, 'etc'), { recursive: true })
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\n')
})
const everything = () =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length))
    // What useradd itself keeps of its work.
    .filter((path) => !/^\/etc\/(passwd|group|shadow|gshadow|subuid|subgid)?-?(\.lock)?$/.test(path) && path !== '/etc')
    .sort()

const mcr = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync('dist/mcr', args, { encoding: 'utf8', env: { PATH: process.env.PATH } })
  return { status, text: `${stdout}${stderr}` }
}
const install = (...args: string[]) => {
  const { status, text } = mcr('install', '--root', root, ...args)
  assert.equal(status, 0, text)
  return text
}
const uninstall = (...args: string[]) => {
  const { status, text } = mcr('uninstall', '--root', root, ...args)
  assert.equal(status, 0, text)
  return text
}
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const lines = (text: string, word: string) => text.split('\n').filter((line) => line.startsWith(word))
const units = globSync('deploy/systemd/*').map((file) => file.replace('deploy/systemd/', '/etc/systemd/system/'))

test('install puts program, configuration, user, data directory and units in place, and says what is next', () => {
  const text = install()
  assert.match(text, /made +the user mcr/)
  assert.match(text, /Next:[\s\S]*config check[\s\S]*systemctl enable --now mcr/)
  assert.equal(statSync(join(root, 'usr/local/bin/mcr')).size, statSync('dist/mcr').size)
  assert.equal(statSync(join(root, 'usr/local/bin/mcr')).mode & 0o777, 0o755)
  const [, uid, gid] = /^mcr:[^:]*:(\d+):(\d+):/m.exec(readFileSync(join(root, 'etc/passwd'), 'utf8')) as RegExpExecArray
  const config = statSync(join(root, 'etc/mcr/mcr.toml'))
  assert.equal(config.mode & 0o777, 0o640)
  assert.equal(config.gid, Number(gid))
  const data = statSync(join(root, 'var/lib/mcr'))
  assert.equal(data.mode & 0o777, 0o710, 'a proxy in the group comes through')
  assert.equal(data.uid, Number(uid))
  for (const unit of units) assert.ok(existsSync(join(root, unit)), unit)
  const { status, text: checked } = mcr('--config', join(root, 'etc/mcr/mcr.toml'), 'config', 'check')
  assert.equal(status, 0, checked)
})

test('a second run changes nothing', () => {
  install()
  const before = everything().map((path) => [path, statSync(join(root, path)).mtimeMs])
  const text = install()
  assert.deepEqual([...lines(text, 'put '), ...lines(text, 'made '), ...lines(text, 'replaced ')], [])
  assert.deepEqual(
    everything().map((path) => [path, statSync(join(root, path)).mtimeMs]),
    before,
  )
})

test('a changed configuration is never written over, and outlives uninstall; so does the data', () => {
  install()
  const config = join(root, 'etc/mcr/mcr.toml')
  appendFileSync(config, '\n# ours\n')
  const changed = readFileSync(config, 'utf8')
  assert.match(install(), /kept +\/etc\/mcr\/mcr\.toml, which was changed/)
  assert.equal(readFileSync(config, 'utf8'), changed)
  assert.ok(!existsSync(`${config}.new`), 'this version would have put the same as the last time')
  writeFileSync(join(root, 'var/lib/mcr/mcr.db'), 'everything that was ever pushed')
  const text = uninstall()
  assert.match(text, /kept +\/etc\/mcr\/mcr\.toml/)
  assert.match(text, /kept +the user mcr, who owns \/var\/lib\/mcr/)
  assert.equal(readFileSync(config, 'utf8'), changed)
  assert.ok(existsSync(join(root, 'var/lib/mcr/mcr.db')))
  assert.match(readFileSync(join(root, 'etc/passwd'), 'utf8'), /^mcr:/m)
  assert.deepEqual(
    everything().filter((path) => path.includes('mcr') && !/^\/(etc\/mcr|var\/lib\/mcr)/.test(path)),
    [],
  )
})

test('an older program is replaced, and what of it runs goes on', () => {
  install()
  const program = join(root, 'usr/local/bin/mcr')
  const record = join(root, 'usr/local/share/mcr/installed.json')
  // The program of an older version, as the record of its install has it.
  writeFileSync(program, 'older')
  const text = readFileSync(record, 'utf8')
  const older = spawnSync('sha256sum', [program], { encoding: 'utf8' }).stdout.split(' ')[0] as string
  writeFileSync(record, text.replace(/("\/usr\/local\/bin\/mcr": ")[0-9a-f]+/, `$1${older}`))
  assert.match(install(), /replaced +\/usr\/local\/bin\/mcr/)
  assert.equal(statSync(program).size, statSync('dist/mcr').size)
})

test('uninstall leaves nothing of its own where nothing was added; a file that was there before stays', () => {
  const before = everything()
  mkdirSync(join(root, 'etc/mcr'))
  writeFileSync(join(root, 'etc/mcr/mcr.toml'), '# there before\n')
  assert.match(install('--prefix', '/opt/mcr'), /kept +\/etc\/mcr\/mcr\.toml.*not put there/)
  assert.ok(existsSync(join(root, 'opt/mcr/bin/mcr')))
  for (const unit of units.filter((path) => path.endsWith('.service')))
    assert.ok(!readFileSync(join(root, unit), 'utf8').includes('/usr/local/bin/mcr'), unit)
  uninstall('--prefix', '/opt/mcr')
  assert.deepEqual(everything(), [...before, '/etc/mcr', '/etc/mcr/mcr.toml'])
  assert.ok(!/^mcr:/m.test(readFileSync(join(root, 'etc/passwd'), 'utf8')))
})

test('uninstall --data removes the data and the user', () => {
  install()
  writeFileSync(join(root, 'var/lib/mcr/mcr.db'), '')
  appendFileSync(join(root, 'etc/mcr/mcr.toml'), '\n')
  uninstall('--data')
  assert.deepEqual(everything(), [])
  assert.ok(!/^mcr:/m.test(readFileSync(join(root, 'etc/passwd'), 'utf8')))
})

test('the user stays while anything is theirs; --data removes the cache and says that snapshots stay', () => {
  install()
  for (const path of ['var/lib/mcr-snapshots', 'var/cache/mcr']) {
    mkdirSync(join(root, path), { recursive: true })
    writeFileSync(join(root, path, 'file'), '')
  }
  const text = uninstall('--data')
  assert.match(text, /removed +\/var\/cache\/mcr\n/)
  assert.match(text, /kept +\/var\/lib\/mcr-snapshots: .*rm -r/)
  assert.match(text, /kept +the user mcr, who owns \/var\/lib\/mcr-snapshots\n/)
  assert.match(readFileSync(join(root, 'etc/passwd'), 'utf8'), /^mcr:/m)
  assert.deepEqual(
    everything().filter((path) => path.includes('mcr')),
    ['/var/lib/mcr-snapshots', '/var/lib/mcr-snapshots/file'],
  )
})

test('the user stays while a key or a configuration is readable for their group', () => {
  install()
  const [, gid] = /^mcr:[^:]*:\d+:(\d+):/m.exec(readFileSync(join(root, 'etc/passwd'), 'utf8')) as RegExpExecArray
  mkdirSync(join(root, 'etc/mcr/tls'))
  const key = join(root, 'etc/mcr/tls/key.pem')
  writeFileSync(key, 'secret', { mode: 0o640 })
  chownSync(key, 0, Number(gid))
  assert.match(uninstall('--data'), /kept +the user mcr, who owns \/etc\/mcr\/tls\/key\.pem\n/)
  assert.match(readFileSync(join(root, 'etc/passwd'), 'utf8'), /^mcr:/m)
})

test('directories that it makes are open to those who pass through', () => {
  install()
  for (const path of ['usr', 'usr/local', 'usr/local/share', 'usr/local/share/mcr', 'etc/mcr'])
    assert.equal(statSync(join(root, path)).mode & 0o777, 0o755, path)
})

test('a unit that this version has no more goes with the upgrade, or stays known where it was changed', () => {
  install()
  const record = join(root, 'usr/local/share/mcr/installed.json')
  const installed = JSON.parse(readFileSync(record, 'utf8')) as { files: Record<string, string> }
  for (const name of ['old.service', 'changed.service']) {
    installed.files[`/etc/systemd/system/mcr-${name}`] = sha256(name)
    writeFileSync(join(root, `etc/systemd/system/mcr-${name}`), name)
  }
  writeFileSync(record, JSON.stringify(installed))
  appendFileSync(join(root, 'etc/systemd/system/mcr-changed.service'), '# ours\n')
  const text = install()
  assert.match(text, /removed +\/etc\/systemd\/system\/mcr-old\.service/)
  assert.match(text, /kept +\/etc\/systemd\/system\/mcr-changed\.service, which was changed/)
  assert.ok(!existsSync(join(root, 'etc/systemd/system/mcr-old.service')))
  const files = Object.keys(JSON.parse(readFileSync(record, 'utf8')).files)
  assert.ok(files.includes('/etc/systemd/system/mcr-changed.service'))
  assert.ok(!files.includes('/etc/systemd/system/mcr-old.service'))
})

for (const then of ['taken back', 'run again and then taken back'])
  test(`an install that fails in the middle can be ${then}`, () => {
    const before = everything()
    // Where the units go there is a file.
    writeFileSync(join(root, 'etc/systemd'), '')
    const { status, text } = mcr('install', '--root', root)
    assert.equal(status, 1, text)
    assert.ok(existsSync(join(root, 'usr/local/bin/mcr')))
    rmSync(join(root, 'etc/systemd'))
    if (then !== 'taken back') install()
    uninstall()
    assert.deepEqual(everything(), before)
    assert.ok(!/^mcr:/m.test(readFileSync(join(root, 'etc/passwd'), 'utf8')))
  })

test('where there is nothing to uninstall, or no executable to install, it says so', () => {
  assert.match(mcr('uninstall', '--root', root).text, /mcr install put nothing under this --root and --prefix/)
  const bundle = spawnSync(process.execPath, ['dist/mcr.cjs', 'install', '--root', root], { encoding: 'utf8' })
  assert.equal(bundle.status, 1)
  assert.match(bundle.stderr, /npm run build:binary/)
})

test('a build without llvm-strip says what installs it', () => {
  const { status, stderr } = spawnSync(process.execPath, ['deploy/build/binary.ts', 'linux-x64'], {
    encoding: 'utf8',
    env: { PATH: root },
  })
  assert.deepEqual([status, stderr], [1, 'llvm-strip is missing: apt-get install llvm\n'])
})
