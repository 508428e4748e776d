import { existsSync, rmSync, statSync } from 'node:fs'
import { mkdir, mkdtemp } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { verifyStorage } from '../../lib/verify/verify.ts'
import type { Assets } from '../app.ts'
import { readAuthKey } from '../auth-key.ts'
import { openBlobsFs } from '../blobs-fs.ts'
import type { Config } from '../config.ts'
import { copyDatabase, openDatabaseFile } from '../database-file.ts'
import { openLocal } from '../local.ts'
import { copyCommand } from '../snapshot/copy-database.ts'
import { snapshotId } from '../snapshot/format.ts'
import { refuseFull, restoreSnapshot, stagingName } from '../snapshot/restore.ts'
import { kindOfSource, openSnapshot, type SnapshotSource, unpackTar, verifySnapshot } from '../snapshot/source.ts'
import { takeSnapshot } from '../snapshot/take.ts'
import { directoryTarget, tarTarget } from '../snapshot/target.ts'
import { exitCodes } from './exit-codes.ts'
import { bytes } from './print.ts'
import { createProgressLine, formatProgress } from './progress.ts'

interface Deps {
  assets: Assets
  load(): Config
  json(): boolean
}

/** `mcr snapshot`, `mcr restore`, and the command that copies a database apart. All on the registry's own host. */
export function snapshotCommands(deps: Deps): Command[] {
  const snapshot = new Command('snapshot')
    .description('take a whole state of the registry beside everything that goes on, into a directory or a tar file')
    .argument('<target>', 'a directory, which holds several and takes only what is new; or a new file that ends with .tar')
    .option('--keep <number>', 'how many snapshots stay in the directory, counting this one', asCount, 7)
    .addHelpText(
      'after',
      `
On one file system files get a second name, and a snapshot costs a copy of the database: that is for mistakes, not for lost disks. The key
that seals what the database keeps (auth.key) is not in it: keep that apart. Exit codes: 0 done, 7 done but some of the registry's files are
damaged and not in it.`,
    )
    .action((target: string, options: { keep: number }) => take(deps, target, options))
  const restore = new Command('restore')
    .description('put a snapshot into an empty directory; without one, only look whether the snapshot is whole')
    .argument('<snapshot>', 'a directory of snapshots, or a tar file')
    .argument('[root]', 'the new storage.root; empty or not there yet')
    .option('--verify', 'read and hash every file before it is restored, and prove the restored registry after')
    .option('--at <id>', 'another snapshot of the directory than the newest')
    .option('--auth-key <file>', 'the auth.key of the registry that the snapshot is of; without it what that sealed is renewed')
    .option('--signed-by <fingerprint>', 'refuse a snapshot that another key signed; mcr snapshot prints it')
    .addHelpText('after', '\nExit codes: 0 whole, 7 the snapshot or what was restored is damaged.')
    .action((source: string, root: string | undefined, options: RestoreOptions) => restoreFrom(deps, source, root, options))
  const copy = new Command(copyCommand)
    .argument('<database>')
    .argument('<target>')
    .action((database: string, target: string) => copyDatabase(database, target))
  return [snapshot, restore, copy]
}

function asCount(text: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text)) throw new InvalidArgumentError('a number from 1 to 9999')
  return Number(text)
}

async function take({ assets, load, json }: Deps, target: string, { keep }: { keep: number }): Promise<void> {
  const config = load()
  if (config.database.url !== undefined)
    throw new Error('the database is a libSQL server: back it up by its own means, and the blobs after it')
  const isTar = target.endsWith('.tar')
  if (isTar && existsSync(target)) throw new Error(`${target} is there already: name a new file`)
  if (existsSync(target) && !isTar && !statSync(target).isDirectory())
    throw new Error(`${target} is a file: name a directory, or a new file that ends with .tar`)
  const registry = await openLocal(config, assets)
  const progress = createProgressLine({ quiet: json() })
  try {
    const { ctx } = registry
    const id = snapshotId(ctx.now(), ctx.newId())
    const into = isTar ? await tarTarget(target, id) : await directoryTarget(resolve(target), id, keep)
    const taken = await takeSnapshot(
      {
        now: ctx.now,
        newId: ctx.newId,
        metadata: ctx.metadata,
        databasePath: config.database.path,
        layersPath: config.storage.layersPath,
        secret: readAuthKey(config.auth.keyFile, process.env),
        ...ctx.about,
      },
      id,
      into,
      ({ files, totalFiles, bytes: done, totalBytes }) =>
        progress.tell(`snapshot: ${formatProgress(files, totalFiles, done, totalBytes)}`),
    )
    progress.clear()
    const { count, bytes: size, damaged } = taken.description.files
    const { linked, copied, copiedBytes } = taken
    const { fingerprint } = taken.signature
    if (json())
      console.log(
        JSON.stringify({ id, files: count, bytes: size, damaged, linked, copied, copied_bytes: copiedBytes, fingerprint }),
      )
    else
      console.log(
        `${id}: ${count} files of ${bytes(size)}; ${linked} linked, ${copied} copied (${bytes(copiedBytes)})\nsigned by ${fingerprint}` +
          (damaged > 0 ? `\n${damaged} damaged files are not in it: mcr verify names them` : ''),
      )
    if (damaged > 0) process.exitCode = exitCodes.damaged
  } finally {
    progress.clear()
    await registry.close()
  }
}

interface RestoreOptions {
  verify?: true
  at?: string
  authKey?: string
  signedBy?: string
}

async function restoreFrom(deps: Deps, from: string, root: string | undefined, options: RestoreOptions): Promise<void> {
  const kind = await kindOfSource(from)
  if (root === undefined && !options.verify) throw new Error('restore where? mcr restore <snapshot> <root>; or only --verify')
  if (root !== undefined) await refuseFull(root)
  // A tar is written out first: beside where it is only looked at, else where it goes, whose file system then gives it second names.
  const work = await workDirectory(kind, from, root)
  const progress = createProgressLine({ quiet: deps.json() })
  try {
    if (work !== undefined) await unpackTar(from, work)
    const source = await openSnapshot(work ?? resolve(from), { id: options.at, signedBy: options.signedBy })
    const { count, bytes: size } = source.description.files
    const told = (what: string) => (files: number, done: number) =>
      progress.tell(`${what}: ${formatProgress(files, count, done, size)}`)
    await verifySnapshot(source, { deep: options.verify === true }, told('verifying'))
    if (root !== undefined) {
      const needs = {
        now: () => Date.now(),
        newId: () => crypto.randomUUID(),
        migrations: deps.assets.migrations,
        readKey: (path: string) => readAuthKey(path, {}),
      }
      await restoreSnapshot(
        needs,
        source,
        resolve(root),
        { authKey: options.authKey, move: work !== undefined },
        told('restoring'),
      )
    }
    progress.clear()
    await conclude(deps, source, root, options)
  } catch (error) {
    progress.clear()
    if ((error as { damaged?: number }).damaged === undefined) throw error
    console.error(`mcr: ${(error as Error).message}`)
    process.exitCode = exitCodes.damaged
  } finally {
    if (work !== undefined) rmSync(work, { recursive: true, force: true })
  }
}

async function workDirectory(kind: 'directory' | 'tar', from: string, root: string | undefined): Promise<string | undefined> {
  if (kind === 'directory') return undefined
  if (root === undefined) return await mkdtemp(join(dirname(resolve(from)), '.mcr-restore-'))
  const work = join(root, stagingName, 'source')
  await mkdir(work, { recursive: true, mode: 0o700 })
  return work
}

/** Proves what was restored, and says what it is. */
async function conclude(deps: Deps, source: SnapshotSource, root: string | undefined, options: RestoreOptions): Promise<void> {
  const { id, made_at: madeAt, files } = source.description
  const said = {
    id,
    made_at: new Date(madeAt).toISOString(),
    files: files.count,
    bytes: files.bytes,
    fingerprint: source.signature.fingerprint,
  }
  const counts = root !== undefined && options.verify ? await verifyRestored(deps, resolve(root)) : undefined
  const damage = counts?.damage ?? 0
  if (deps.json())
    console.log(JSON.stringify({ ...said, ...(root === undefined ? {} : { root }), ...(counts ? { verified: counts } : {}) }))
  else {
    console.log(`${id} of ${said.made_at} is whole: ${files.count} files of ${bytes(files.bytes)}, signed by ${said.fingerprint}`)
    if (root !== undefined) {
      const proof = counts ? `; ${counts.manifests} manifests and ${counts.blobs} blobs verified, ${damage} damaged` : ''
      console.log(
        `restored to ${root}${proof}\nstart it: MCR_STORAGE_ROOT=${root} mcr serve. Everybody logs in again; robots and passwords stay.`,
      )
    }
  }
  if (damage > 0) process.exitCode = exitCodes.damaged
}

async function verifyRestored(deps: Deps, root: string) {
  const metadata = await openDatabaseFile(join(root, 'mcr.db'), {
    onFatal: (error) => {
      throw error
    },
  })
  try {
    const blobs = await openBlobsFs({
      layersPath: join(root, 'blobs'),
      uploadsPath: join(root, 'uploads'),
      minBytesPerSecond: 0,
      rateWindowMs: 60_000,
      expectExisting: true,
    })
    const { limits } = deps.load()
    const nothing = () => undefined
    const ctx = { metadata, blobs, limits, now: () => Date.now(), newId: () => crypto.randomUUID(), log: nothing, count: nothing }
    for await (const verified of verifyStorage(ctx, { deep: true }, new AbortController().signal)) {
      if (verified.kind === 'result') return verified.counts
      if (verified.kind === 'finding' && verified.finding.severity === 'damage')
        console.error(`${verified.finding.what} ${verified.finding.digest} in ${verified.finding.repositories.join(', ')}`)
    }
    throw new Error('verifying ended early')
  } finally {
    await metadata.close()
  }
}
