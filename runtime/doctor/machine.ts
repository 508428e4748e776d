import { X509Certificate } from 'node:crypto'
import { accessSync, constants, existsSync, lstatSync, readFileSync, statfsSync, statSync } from 'node:fs'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Assets } from '../app.ts'
import { checkDirectory, markerName } from '../blobs-fs-root.ts'
import { passwordFile } from '../bootstrap.ts'
import type { Config } from '../config.ts'
import { openDatabaseFile } from '../database-file.ts'
import { missingMigration } from '../migrate.ts'
import { createSpace, spaceOptions } from '../space.ts'
import type { Find, Finding } from './finding.ts'

const walAlarmBytes = 64 * 1024 * 1024
const soonMs = 14 * 86_400_000
const fewFiles = 4096
/** statfs(2) of tmpfs and ramfs. */
const memoryFileSystems = [0x01021994, 0x858458f6]

/** The registry's own host: disk, rights, database, keys, configuration. Changes nothing but one file that it makes and removes. */
export async function examineMachine(config: Config, assets: Pick<Assets, 'migrations'>, find: Find): Promise<void> {
  const { storage, database } = config
  const unread = unreadable(storage.root)
  if (unread?.code === 'ENOENT') {
    find({
      what: 'root',
      severity: 'wrong',
      says: `there is no storage.root ${storage.root}`,
      cures: { mcr: 'start the registry once, or name the right storage.root (--config, MCR_STORAGE_ROOT)' },
    })
    return
  }
  if (unread) {
    find(rights(`${storage.root} cannot be read`, storage.root, unread))
    return
  }
  await disk(config, find)
  if (database.url === undefined) await databaseFile(database.path, assets, find)
  secrets(config, find)
  configuration(config, find)
  const limit = /Max open files +(\d+)/.exec(
    existsSync('/proc/self/limits') ? readFileSync('/proc/self/limits', 'utf8') : '',
  )?.[1]
  if (limit !== undefined && Number(limit) < fewFiles)
    find({
      what: 'open-files',
      severity: 'note',
      says: `this shell allows ${limit} open files: each download and each connection is one`,
      cures: { mcr: 'LimitNOFILE=65536 in the unit, ulimit -n 65536 in a shell' },
    })
}

function unreadable(directory: string): NodeJS.ErrnoException | undefined {
  try {
    accessSync(directory, constants.R_OK | constants.X_OK)
    return undefined
  } catch (error) {
    return error as NodeJS.ErrnoException
  }
}

async function disk({ storage, database }: Config, find: Find): Promise<void> {
  const paths = [storage.layersPath, storage.uploadsPath].filter((path) => existsSync(path))
  for (const path of paths) {
    try {
      checkDirectory(path)
    } catch (error) {
      find({ what: 'directory', severity: 'wrong', says: (error as Error).message, cures: {} })
    }
    const { type, files, ffree } = statfsSync(path)
    if (memoryFileSystems.includes(type))
      find({
        what: 'memory',
        severity: 'wrong',
        says: `${path} is on a file system in memory: everything is gone after a restart`,
        cures: { mcr: 'storage.root on a disk' },
      })
    if (files > 0 && ffree < files / 50)
      find({
        what: 'inodes',
        severity: 'wrong',
        says: `${path}: ${ffree} of ${files} inodes are free`,
        cures: { mcr: 'mcr gc run; a file system with more inodes' },
      })
  }
  const [layers, uploads] = paths
  if (layers !== undefined && uploads !== undefined && statSync(layers).dev !== statSync(uploads).dev)
    find({
      what: 'two-file-systems',
      severity: 'wrong',
      says: 'blobs and uploads are on two file systems: a finished upload could not be renamed',
      cures: { mcr: 'storage.layers_path and storage.uploads_path on one' },
    })
  if (layers !== undefined && !existsSync(join(layers, markerName)))
    find({
      what: 'marker',
      severity: 'wrong',
      says: `${layers} holds no ${markerName}: the volume is not mounted, or was restored without hidden files`,
      cures: { mcr: `mount it; after a restore without hidden files: touch ${join(layers, markerName)}` },
    })
  if (uploads === undefined || layers === undefined) return
  const { free, floor, refusing } = createSpace({ ...spaceOptions({ database, storage }), log: () => undefined }).measure()
  if (refusing || free < floor)
    find({
      what: 'space',
      severity: 'wrong',
      says: `${free} bytes are free and ${floor} are to stay so: pushes are refused with 507`,
      cures: { mcr: 'mcr gc run, delete what is not needed, or a larger disk; storage.free_floor' },
    })
  const probe = join(uploads, `doctor.${process.pid}`)
  try {
    const handle = await open(probe, 'wx', 0o600)
    try {
      await handle.sync()
    } finally {
      await handle.close()
      await rm(probe)
    }
  } catch (error) {
    find(rights(`nothing can be written to ${uploads}`, storage.root, error as Error))
  }
}

const rights = (what: string, root: string, error: Error): Finding => ({
  what: 'rights',
  severity: 'wrong',
  says: `${what} by uid ${process.getuid?.()}: ${error.message}`,
  cures: { mcr: `run the doctor as the registry's user; else chown -R <that user> ${root}` },
})

async function databaseFile(path: string, assets: Pick<Assets, 'migrations'>, find: Find): Promise<void> {
  if (!existsSync(path)) {
    find({
      what: 'database',
      severity: 'wrong',
      says: `there is no database ${path}`,
      cures: { mcr: 'start the registry once, or database.path' },
    })
    return
  }
  const broken = (error: Error) => {
    find({
      what: 'database',
      severity: 'wrong',
      says: `${path}: ${error.message}`,
      cures: { mcr: 'docs/operations.md, corrupted database' },
    })
  }
  try {
    const store = await openDatabaseFile(path, { onFatal: broken, readOnly: true })
    const missing = await missingMigration(store, assets.migrations).catch((error: Error) => {
      find({
        what: 'schema',
        severity: 'wrong',
        says: error.message,
        cures: { mcr: 'the version that it names; the data is as it was' },
      })
      return undefined
    })
    if (missing !== undefined)
      find({
        what: 'schema',
        severity: 'wrong',
        says: `${missing}: the registry that runs is older than this program, or was not started since`,
        cures: { mcr: 'restart the registry with this program' },
      })
    const rows = await store.read.all<Record<string, string>>('PRAGMA quick_check(1)')
    const verdict = Object.values(rows[0] ?? {})[0]
    if (verdict !== 'ok') broken(new Error(`quick_check says ${verdict}`))
    const bytes = store.walBytes()
    if (bytes > walAlarmBytes)
      find({
        what: 'log',
        severity: 'wrong',
        says: `the write-ahead log has ${bytes} bytes: no process copies it into the database, or a reader holds it`,
        cures: {
          mcr: 'a registry process that writes must run; restart it if it does (the log line checkpoint_failed says why)',
        },
      })
    await store.close()
  } catch (error) {
    broken(error as Error)
  }
}

function secrets({ auth, server, storage }: Config, find: Find): void {
  for (const [file, what] of [
    [auth.keyFile, 'auth-key'],
    [server.tlsKey, 'tls-key'],
  ] as const)
    if (file !== undefined && existsSync(file) && (lstatSync(file).mode & 0o037) !== 0)
      find({ what, severity: 'wrong', says: `${file} can be read by others`, cures: { mcr: `chmod 0600 ${file}` } })
  if (existsSync(passwordFile(storage.root)))
    find({
      what: 'first-password',
      severity: 'note',
      says: `the first password of admin was never used, and lies in ${passwordFile(storage.root)}`,
      cures: { mcr: 'log in once (the file goes), or mcr account passwd admin' },
    })
  if (server.tlsCert === undefined || !existsSync(server.tlsCert)) return
  const { validTo } = new X509Certificate(readFileSync(server.tlsCert))
  if (Date.parse(validTo) - Date.now() < soonMs)
    find({
      what: 'certificate-ends',
      severity: 'wrong',
      says: `${server.tlsCert} ends ${validTo}`,
      cures: { mcr: 'replace it; the registry reads it again by itself' },
    })
}

function configuration({ server }: Config, find: Find): void {
  if (server.trustedProxies.some((network) => /\/0$/.test(network)))
    find({
      what: 'trust',
      severity: 'wrong',
      says: 'server.trusted_proxies trusts everybody: any client may say which address it has, and be sent blobs by X-Accel-Redirect',
      cures: { mcr: 'server.trusted_proxies = ["<address of the proxy>"], or a unix socket in server.listen_addr' },
    })
  if (server.accel !== 'off' && server.trustedProxies.length === 0 && !server.listenAddr.startsWith('unix:'))
    find({
      what: 'accel',
      severity: 'note',
      says: 'server.accel has no effect: no request comes from a proxy that is trusted',
      cures: { mcr: 'server.listen_addr = "unix:/run/mcr/mcr.sock", or server.trusted_proxies' },
    })
}
