import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  lstatSync,
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
import { installedFile as config } from '../config.ts'
import { exampleFile } from './config.ts'

const user = 'mcr'
const data = '/var/lib/mcr'
/** Made by the units, for the user. */
const snapshots = '/var/lib/mcr-snapshots'
const cache = '/var/cache/mcr'
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
    // With what a former version put: nothing that is there is forgotten, however this ends.
    files: { ...before?.files },
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
  const wantedNow = new Set<string>()
  const put = (path: string, content: string | { copyOf: string }, mode: number, gid = 0): void => {
    wantedNow.add(path)
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

  try {
    put(join(prefix, 'bin/mcr'), { copyOf: process.execPath }, 0o755)
    // A proxy in the group comes through to the blobs, where server.accel lets it read them.
    directory(data, 0o710, account)
    put(config, exampleFile().replace('# root = "./data"', `root = "${data}"`), 0o640, account.gid)
    for (const [name, text] of Object.entries(assets.units))
      put(join(unitFolder, name), text.replaceAll(command, join(prefix, 'bin/mcr')), 0o644)
    // What this version has no more.
    for (const [path, hash] of Object.entries(record.files)) {
      if (wantedNow.has(path)) continue
      if (!isChanged(root, path, hash)) stopUnits(root, [path])
      if (removeUnchanged(root, path, hash)) delete record.files[path]
    }
  } finally {
    writeRecord(place, record)
  }
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
  stopUnits(root, Object.keys(record.files))
  for (const [path, hash] of Object.entries(record.files))
    if (path === config && scope === 'and data') remove(root, path)
    else removeUnchanged(root, path, hash)
  if (scope === 'and data') {
    for (const path of [data, cache]) remove(root, path)
    if (existsSync(join(root, snapshots)))
      console.log(
        `kept     ${snapshots}: whole databases and blobs of before; when none is wanted: rm -r ${join(root, snapshots)}`,
      )
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

/** Stops and disables what of these files are units. */
function stopUnits(root: string, paths: readonly string[]): void {
  if (!onThisSystem(root)) return
  const units = paths.filter((path) => path.startsWith(`${unitFolder}/`)).map((path) => path.slice(unitFolder.length + 1))
  // Services last: a client or a timer would start one again.
  for (const unit of units.sort((a, b) => Number(a.endsWith('.service')) - Number(b.endsWith('.service'))))
    for (const words of [
      ['stop', unit.replace('@.', '@*.')],
      ['disable', unit],
    ])
      spawnSync('systemctl', words, { stdio: 'ignore' })
}

const isChanged = (root: string, path: string, hash: string) =>
  existsSync(join(root, path)) && sha256(readFileSync(join(root, path))) !== hash

/** Removes a file that is as it was put, and keeps one that was changed. Shape: whether it is gone. */
function removeUnchanged(root: string, path: string, hash: string): boolean {
  if (isChanged(root, path, hash)) {
    console.log(`kept     ${path}, which was changed since`)
    return false
  }
  remove(root, path)
  return true
}

function remove(root: string, path: string): void {
  if (!existsSync(join(root, path))) return
  rmSync(join(root, path), { recursive: true })
  console.log(`removed  ${path}`)
}

/** Files that belong to a number nobody has would be the next account's, so a user with files stays. */
function removeUser(root: string): void {
  const { gid } = findUser(root) ?? {}
  const beside = existsSync(join(root, dirname(config))) ? readdirSync(join(root, dirname(config)), { recursive: true }) : []
  const owned = [
    ...[data, snapshots, cache].filter((path) => existsSync(join(root, path))),
    ...beside.map((name) => join(dirname(config), String(name))).filter((path) => lstatSync(join(root, path)).gid === gid),
  ]
  if (owned.length > 0) console.log(`kept     the user ${user}, who owns ${owned.join(', ')}`)
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
    mkdirSync(join(place.root, path))
    chmodSync(join(place.root, path), 0o755)
    record.directories.push(path)
  }
  const text = `${JSON.stringify(record, null, 1)}\n`
  if (existsSync(file) && readFileSync(file, 'utf8') === text) return
  // Renamed: a record that is half there would stand in the way of every later run.
  writeFileSync(`${file}.next`, text, { mode: 0o644 })
  renameSync(`${file}.next`, file)
}

function reloadUnits(root: string): void {
  if (onThisSystem(root) && existsSync('/run/systemd/system')) spawnSync('systemctl', ['daemon-reload'], { stdio: 'inherit' })
}
