import { randomUUID } from 'node:crypto'
import { existsSync, statSync } from 'node:fs'
import type { AdminContext } from '../lib/admin/operation.ts'
import { createAuthentication } from '../lib/auth/authenticate.ts'
import type { Caller } from '../lib/auth/principal.ts'
import { createTokenKeys } from '../lib/auth/tokens.ts'
import type { Exchange } from '../lib/context.ts'
import { retentionOf } from '../lib/jobs/retention.ts'
import type { LogEvent } from '../lib/observe/log.ts'
import { builtInRules } from '../lib/policy/rule.ts'
import type { Assets } from './app.ts'
import { readAuthKey } from './auth-key.ts'
import { openBlobsFs } from './blobs-fs.ts'
import { ensureInstance } from './bootstrap.ts'
import type { Config } from './config.ts'
import { openDatabase } from './database.ts'
import { createIdentities } from './identities.ts'
import { missingMigration } from './migrate.ts'
import { createOutgoingFetch } from './outgoing.ts'
import { createPasswords } from './passwords.ts'
import { checkRollback } from './rollback.ts'
import { sha256 } from './sha256.ts'
import { createSpace, spaceOptions } from './space.ts'

/** The operations' context on the registry's own host, without a server. */
export interface LocalRegistry {
  ctx: AdminContext
  caller: Caller
  exchange: Exchange
  signal: AbortSignal
  close(): Promise<void>
}

/**
 * Opens the registry's database as who owns it: whoever owns the data directory administers the registry (A4), and no rule of the
 * registry stands against that. Works while it serves and while it does not.
 * Errors: a plain Error where there is no database, or one of another version.
 */
export async function openLocal(config: Config, assets: Pick<Assets, 'version' | 'migrations'>): Promise<LocalRegistry> {
  if (config.database.url === undefined) becomeOwner(config.database.path)
  // Standard output is the command's answer.
  const log = ({ level, ...fields }: LogEvent) => {
    if (level === 'warn' || level === 'error') console.error(JSON.stringify({ level, time: new Date().toISOString(), ...fields }))
  }
  const space = createSpace({ ...spaceOptions(config), log })
  const metadata = await openDatabase(config, {
    onFatal: (error) => {
      console.error(`mcr: ${error.message}`)
      process.exit(1)
    },
    onFull: space.full,
  })
  const missing = await missingMigration(metadata, assets.migrations)
  if (missing !== undefined)
    throw new Error(`${missing}: start the registry with this version first, it brings the database up to date`)
  const now = () => Date.now()
  const newId = () => randomUUID()
  const instance = await ensureInstance(metadata, now())
  const passwords = createPasswords()
  const tokens = createTokenKeys({
    metadata,
    audience: instance,
    secret: config.database.url === undefined ? readAuthKey(config.auth.keyFile, process.env) : undefined,
    ttlSeconds: config.auth.tokenTtlSeconds,
    now,
    newId,
  })
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())
  const nothing = () => undefined
  const base = {
    now,
    newId,
    log,
    note: nothing,
    tally: nothing,
    touch: nothing,
    count: nothing,
    challenge: () => '',
    remember: async <T>(_key: string, load: () => Promise<T>) => await load(),
  }
  const identities = createIdentities({ ...base, metadata }, config, undefined)
  const authentication = createAuthentication({ ...base, metadata, passwords, tokens }, { sources: identities.sources })
  // A database elsewhere has its blobs elsewhere too.
  const blobs =
    config.database.url === undefined
      ? await openBlobsFs({
          ...config.storage,
          minBytesPerSecond: config.server.minBodyRate,
          rateWindowMs: 60_000,
          admit: space.admit,
          newId,
          expectExisting: (await metadata.read.all('SELECT 1 AS one FROM blobs LIMIT 1')).length > 0,
        })
      : undefined
  if (blobs)
    await checkRollback(
      { ...base, metadata },
      blobs,
      { database: config.database.path, layersPath: config.storage.layersPath },
      'refuse',
    )
  const uid = process.getuid?.() ?? 0
  const subject = `local:${uid}`
  return {
    ctx: {
      ...base,
      authenticate: authentication.authenticate,
      decide: async () => ({ allow: true }),
      metadata,
      passwords,
      tokens,
      logins: authentication,
      limits: config.limits,
      sha256,
      about: { version: assets.version, instance },
      rules: { builtIn: builtInRules(config.policy) },
      trusts: identities.trusts,
      collector: blobs && { blobs },
      retention: retentionOf(config.storage.retention),
      files: blobs,
      outgoing: createOutgoingFetch(),
    },
    caller: { principal: { id: 0, subject, name: subject, kind: 'system', roles: ['admin'], version: 0 } },
    exchange: { id: newId(), address: 'local', origin: '', proceed: nothing },
    signal: stop.signal,
    close: () => metadata.close(),
  }
}

/** Steps down from root to who owns the database: files that root made would be closed to the registry. */
function becomeOwner(path: string): void {
  if (!existsSync(path))
    throw new Error(
      `there is no database at ${path}: start the registry once, name the right storage.root or database.path, or a registry by --server`,
    )
  const { uid, gid } = statSync(path)
  if (process.getuid?.() !== 0 || uid === 0) return
  process.setgid?.(gid)
  process.setuid?.(uid)
}
