import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { isSea } from 'node:sea'
import { Command } from 'commander'
import type { Assets } from '../app.ts'
import { exampleFile } from './config.ts'

const user = 'mcr'
const data = '/var/lib/mcr'
const config = '/etc/mcr/mcr.toml'
const unitFolder = '/etc/systemd/system'
const command = '/usr/local/bin/mcr'

/** What was put where, by hash: what an administrator changed since is theirs. */
interface Installed {
  version: string
  files: Record<string, string>
  directories: string[]
  user: 'made' | 'found'
}
interface Place {
  root: string
  prefix: string
}

export function installCommands(assets: Pick<Assets, 'version' | 'units'>): Command[] {
  const options = (made: Command) =>
    made
      .option('--prefix <directory>', 'where the program goes: bin/mcr and share/mcr in it', '/usr/local')
      .option('--root <directory>', 'put everything under this directory instead of /, as for an image')
  const placed = ({ root = '/', prefix }: Partial<Place>): Place => ({
    root: resolve(root),
    prefix: resolve('/', prefix as string),
  })
  return [
    options(new Command('install'))
      .description('put this program, a configuration, a user and the systemd units in place; run again to upgrade')
      .action((given: Partial<Place>) => install(placed(given), assets)),
    options(new Command('uninstall'))
      .description('remove what mcr install put there; data and what was changed stay')
      .option('--data', 'remove the data as well: everything that was ever pushed')
      .action((given: Partial<Place> & { data?: true }) => uninstall(placed(given), given.data ? 'and data' : 'not data')),
  ]
}

function install(place: Place, assets: Pick<Assets, 'version' | 'units'>): void {
  if (!isSea())
    throw new Error(
      'mcr install copies the single executable, and this is the bundle: npm run build:binary, then dist/mcr install',
    )
  if (process.getuid?.() !== 0) throw new Error('mcr install makes a user and writes to /etc: run it as root')
  const { root, prefix } = place
  const before = readRecord(place)
  const account = ensureUser(root)
  const record: Installed = {
    version: assets.version,
    files: {},
    directories: before?.directories ?? [],
    user: before?.user ?? account.was,
  }
  const directory = (path: string, mode: number, owner?: { uid: number; gid: number }) => {
    if (existsSync(join(root, path))) return
    directory(dirname(path), 0o755)
    mkdirSync(join(root, path))
    chmodSync(join(root, path), mode)
    if (owner) chownSync(join(root, path), owner.uid, owner.gid)
    record.directories.push(path)
    console.log(`made       ${path}`)
  }
  const put = (path: string, content: string | { copyOf: string }, mode: number, gid = 0): void => {
    const file = join(root, path)
    directory(dirname(path), 0o755)
    const wanted = typeof content === 'string' ? sha256(content) : sha256(readFileSync(content.copyOf))
    const there = existsSync(file) ? sha256(readFileSync(file)) : undefined
    const mine = before?.files[path]
    if (there === wanted) console.log(`as it was  ${path}`)
    else if (there !== undefined && mine === undefined) {
      console.log(`kept       ${path}: it was not put there by mcr install`)
      return
    } else if (there !== undefined && there !== mine) {
      record.files[path] = mine as string
      console.log(`kept       ${path}, which was changed since`)
      // What this version would have put, where that is something else than the last time.
      if (wanted !== mine) put(`${path}.new`, content, mode, gid)
      return
    } else {
      // Beside it and renamed: a program that runs cannot be written over, and one that is half there must not be started.
      const temporary = `${file}.${process.pid}`
      if (typeof content === 'string') writeFileSync(temporary, content)
      else copyFileSync(content.copyOf, temporary)
      chmodSync(temporary, mode)
      chownSync(temporary, 0, gid)
      renameSync(temporary, file)
      console.log(`${there === undefined ? 'put       ' : 'replaced  '} ${path}`)
    }
    record.files[path] = wanted
  }

  put(join(prefix, 'bin/mcr'), { copyOf: process.execPath }, 0o755)
  directory(data, 0o700, account)
  put(config, exampleFile().replace('# root = "./data"', `root = "${data}"`), 0o640, account.gid)
  for (const [name, text] of Object.entries(assets.units))
    put(join(unitFolder, name), text.replaceAll(command, join(prefix, 'bin/mcr')), 0o644)
  writeRecord(place, record)
  reloadUnits(root)
  console.log(`\nMCR ${assets.version} is installed. Next:
  1. ${config}: set server.public_url, and a certificate or a proxy
  2. ${join(prefix, 'bin/mcr')} --config ${config} config check
  3. systemctl enable --now mcr
  4. the first login is in ${data}/admin-password, until it is used`)
}

function uninstall(place: Place, scope: 'and data' | 'not data'): void {
  const { root } = place
  const record = readRecord(place)
  if (!record)
    throw new Error(`${join(root, recordPath(place))} is not there: mcr install put nothing under this --root and --prefix`)
  if (process.getuid?.() !== 0) throw new Error('mcr uninstall removes what root put there: run it as root')
  const units = Object.keys(record.files).filter((path) => path.startsWith(`${unitFolder}/`))
  if (onThisSystem(root))
    for (const unit of units.map((path) => path.slice(unitFolder.length + 1)))
      for (const words of [
        ['stop', unit.replace('@.', '@*.')],
        ['disable', unit],
      ])
        spawnSync('systemctl', words, { stdio: 'ignore' })
  for (const [path, hash] of Object.entries(record.files)) {
    const file = join(root, path)
    if (!existsSync(file)) continue
    if (sha256(readFileSync(file)) !== hash && !(path === config && scope === 'and data')) {
      console.log(`kept     ${path}, which was changed since`)
      continue
    }
    rmSync(file)
    console.log(`removed  ${path}`)
  }
  if (scope === 'and data') {
    rmSync(join(root, data), { recursive: true, force: true })
    console.log(`removed  ${data}`)
  }
  rmSync(join(root, recordPath(place)))
  for (const path of [...record.directories].sort().reverse()) {
    if (!existsSync(join(root, path))) continue
    if (readdirSync(join(root, path)).length > 0) console.log(`kept     ${path}, which is not empty`)
    else rmdirSync(join(root, path))
  }
  if (record.user === 'made') removeUser(root)
  reloadUnits(root)
}

/** Files that belong to a number nobody has would be the next account's, so a user with data stays. */
function removeUser(root: string): void {
  if (existsSync(join(root, data))) console.log(`kept     the user ${user}, who owns ${data}`)
  else if (spawnSync('userdel', [...prefixOf(root), user], { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0)
    console.log(`removed  the user ${user}`)
}

/** Errors: a plain Error where the system has no `useradd`. */
function ensureUser(root: string): { uid: number; gid: number; was: 'made' | 'found' } {
  const found = findUser(root)
  if (found) return { ...found, was: 'found' }
  const words = ['--system', '--user-group', '--no-create-home', '--home-dir', data, '--shell', '/usr/sbin/nologin', user]
  const { status, stderr, error } = spawnSync('useradd', [...prefixOf(root), ...words], { encoding: 'utf8' })
  const made = findUser(root)
  if (status !== 0 || !made)
    throw new Error(
      `the user ${user} could not be made (${error?.message ?? stderr.trim()}): make a system user ${user} with a group ${user}, then run this again`,
    )
  console.log(`made       the user ${user}`)
  return { ...made, was: 'made' }
}

function findUser(root: string): { uid: number; gid: number } | undefined {
  const file = join(root, 'etc/passwd')
  const text = onThisSystem(root)
    ? spawnSync('getent', ['passwd', user], { encoding: 'utf8' }).stdout
    : existsSync(file)
      ? readFileSync(file, 'utf8')
      : ''
  const [, uid, gid] = new RegExp(`^${user}:[^:]*:(\\d+):(\\d+):`, 'm').exec(text ?? '') ?? []
  return uid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) }
}

const onThisSystem = (root: string) => root === '/'
const prefixOf = (root: string) => (onThisSystem(root) ? [] : ['--prefix', root])
const recordPath = ({ prefix }: Place) => join(prefix, 'share/mcr/installed.json')
const sha256 = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest('hex')

function readRecord(place: Place): Installed | undefined {
  const file = join(place.root, recordPath(place))
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Installed) : undefined
}

function writeRecord(place: Place, record: Installed): void {
  const file = join(place.root, recordPath(place))
  for (const path of [dirname(dirname(recordPath(place))), dirname(recordPath(place))]) {
    if (existsSync(join(place.root, path))) continue
    mkdirSync(join(place.root, path), { mode: 0o755 })
    record.directories.push(path)
  }
  writeFileSync(file, `${JSON.stringify(record, null, 1)}\n`, { mode: 0o644 })
}

function reloadUnits(root: string): void {
  if (onThisSystem(root) && existsSync('/run/systemd/system')) spawnSync('systemctl', ['daemon-reload'], { stdio: 'inherit' })
}
