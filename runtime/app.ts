import { randomUUID } from 'node:crypto'
import { createAuthentication } from '../lib/auth/authenticate.ts'
import { formatChallenge } from '../lib/auth/challenge.ts'
import { createTokenKeys } from '../lib/auth/tokens.ts'
import type { Base, Exchange, RegistryContext } from '../lib/context.ts'
import type { Endpoint } from '../lib/http/endpoint.ts'
import { type Handler, mount } from '../lib/http/mount.ts'
import { retentionOf, shortGraceMs } from '../lib/jobs/retention.ts'
import { createGather } from '../lib/journal/gather.ts'
import { countDamaged } from '../lib/metadata/integrity.ts'
import { createDecide } from '../lib/policy/decide.ts'
import { builtInRules } from '../lib/policy/rule.ts'
import { type Alarm, createAlarm } from './alarms.ts'
import { jobsOf, selectJobs } from './app-jobs.ts'
import { readAuthKey } from './auth-key.ts'
import { ensureAdmin, ensureInstance, firstAdmin, forgetFirstPassword, makeFirstPassword } from './bootstrap.ts'
import { watchClock } from './clock.ts'
import type { Config } from './config.ts'
import type { Database } from './database.ts'
import { type Descriptors, shareDescriptors } from './descriptors.ts'
import type { EmptyDatabase } from './empty-database.ts'
import { garbageGauges } from './garbage-gauges.ts'
import { createIdentities } from './identities.ts'
import { startJobs } from './jobs.ts'
import { lateMetrics } from './late-metrics.ts'
import { createLogger, type Logger } from './logger.ts'
import type { Metrics } from './metrics.ts'
import { openBlobs, openMetadata } from './open-data.ts'
import { createOutgoingFetch } from './outgoing.ts'
import { createPasswords } from './passwords.ts'
import { openFor, openingOf, unopened } from './ports.ts'
import { createRemember } from './remember.ts'
import { sha256 } from './sha256.ts'
import { createSpace, spaceGauges, spaceOptions } from './space.ts'
import type { Worker } from './worker.ts'

/** Data that the build embeds: what lies in files beside the sources. */
export interface Assets {
  version: string
  migrations: Readonly<Record<string, string>>
  /** A database with all of them; absent: a first start runs them. */
  emptyDatabase?: EmptyDatabase
  mounts: Readonly<Record<string, string>>
  /** systemd units by file name. */
  units: Readonly<Record<string, string>>
  /** Version of the database driver. */
  driver: string
  routes: readonly (Omit<Endpoint, 'run'> & { handler: string })[]
}

export interface App {
  fetch: Handler['fetch']
  ctx: RegistryContext
  /** Whether the handlers of this process are the administration's RPC. */
  servesRpc: boolean
  logger: Logger
  metrics: Metrics
  descriptors: Descriptors
  alarm: Alarm
  database: Database
  /** Set on a first start that made the admin. */
  admin?: Awaited<ReturnType<typeof ensureAdmin>>
  /** A request's last byte has left: who takes turns with requests hears of it. */
  ended(exchange: Exchange): void
  startJobs(names: readonly string[]): void
  close(): Promise<void>
}

/** A log of this size is told. It is copied into the database when much is in it (runtime/database-file.ts), or when it is this old. */
const walLargeBytes = 64 * 1024 * 1024
const checkpointEveryMs = 10_000
/** Damaged blobs that a scrape counts. */
const damagedMost = 10_000
/** The job asks about tokens in use every half minute; its leases and the clock get as much again. */
const vouchedMs = 90_000
/** How long a denial, login or pull may wait for the journal: what a kill may lose of them (J2). */
const gatherMs = 1_000

/**
 * Puts the registry together: opens what the handlers and `jobs` of this process need, makes what a first start needs, and mounts the
 * handlers. What only reads makes nothing: it waits for a process that does.
 * `worker` is this process's place where it is one of several under a parent. `rollback`: what to do with a database that is older than
 * its blobs.
 * Errors: a plain Error that says what to change, for everything that must not start.
 */
export async function createApp(
  config: Config,
  assets: Assets,
  handlers: readonly Pick<Handler, 'endpoints'>[],
  onFatal: (error: Error) => void,
  jobs: readonly string[] = [],
  worker?: Worker,
  rollback: 'refuse' | 'accept' = 'refuse',
): Promise<App> {
  const logger = await createLogger(config.log, worker?.number)
  const log: Base['log'] = (event) => logger.log(event)
  const space = createSpace({ ...spaceOptions(config), log })
  const clock = watchClock(log)
  const descriptors = shareDescriptors(config.server.maxConnections)
  if (descriptors.connections < config.server.maxConnections)
    log({
      level: 'warn',
      event: 'descriptors_few',
      ...descriptors,
      hint: 'raise the limit of open files (LimitNOFILE, ulimit -n)',
    })
  const opening = openingOf(handlers, jobs)
  const now = () => Date.now()
  const newId = () => randomUUID()
  const data = { config, opening, space, log, now, newId }
  const passwords = createPasswords()
  const database = await openMetadata(data, assets, onFatal)
  const instance = await ensureInstance(database, now())
  const [blobs, admin] = await Promise.all([
    openBlobs({ ...data, maxOpenFiles: descriptors.files }, database, rollback),
    // Whoever signs tokens makes who they are first for, so that a split registry has one place where its first password is.
    opening.key ? ensureAdmin(database, () => makeFirstPassword(passwords, config), config.storage.root, now()) : undefined,
  ])
  const retention = retentionOf(config.storage.retention)
  const metrics = lateMetrics(
    assets.version,
    {
      database_wal_bytes: { help: "Size of the database's write-ahead log.", joined: 'max', value: database.walBytes },
      ...spaceGauges(space),
      ...clock.gauges,
      ...garbageGauges(database.read, retention.epochMs),
      blobs_damaged: {
        help: `Blobs that are marked as damaged now, whoever marked them; counted up to ${damagedMost}.`,
        joined: 'max',
        value: async () => await countDamaged(database.read, damagedMost),
      },
      connections_limit: { help: 'Most connections at a time.', joined: 'sum', value: () => descriptors.connections },
      open_files_limit: { help: 'Most files of blobs that are open at a time.', joined: 'sum', value: () => descriptors.files },
    },
    worker?.gather,
  )
  worker?.measures(metrics.snapshot)
  const alarm = createAlarm(log, metrics.count)
  const remember = createRemember(database.revision, now)
  if (config.storage.retention.graceMs < shortGraceMs)
    logger.log({
      level: 'warn',
      event: 'gc_grace_short',
      grace_ms: config.storage.retention.graceMs,
      hint: 'nothing is lost, but a slow push may have to send layers again: storage.gc_grace of 1h or more',
    })
  const { key } = opening
  const secret = key && (await openFor(key.for, () => readAuthKey(config.auth.keyFile, process.env)))
  const tokens = createTokenKeys({
    metadata: database,
    audience: instance,
    secret,
    ttlSeconds: config.auth.tokenTtlSeconds,
    now,
    newId,
  })

  const challenge: Base['challenge'] = (exchange, scope, problem) => formatChallenge(instance, exchange, scope, problem)
  // A bound that a request meets is told as one that a connection meets.
  const count: Base['count'] = (metric, labels = {}, by) =>
    metric === 'limits_reached_total' ? alarm(String(labels.limit)) : metrics.count(metric, labels, by)
  const { note, tally, touch, flush } = createGather({ now, newId, count, metadata: database }, config.audit)
  const gathered = setInterval(() => {
    flush().catch((error) => logger.log({ level: 'warn', event: 'journal_late', error: String(error) }))
  }, gatherMs).unref()
  const needs = { now, remember, count, challenge, note, touch, metadata: database, passwords, tokens }
  const identities = createIdentities({ now, note, log, metadata: database }, config, secret)
  const authentication = createAuthentication(needs, {
    sources: opening.identities ? identities.sources : undefined,
    vouchedMs: config.mcias.offlineGraceMs + vouchedMs,
    onLogin: (name) => {
      if (opening.key && name === firstAdmin) forgetFirstPassword(config.storage.root)
    },
  })
  const builtIn = builtInRules(config.policy)
  const ctx: RegistryContext = {
    authenticate: authentication.authenticate,
    decide: createDecide({ now, remember, metadata: database }, builtIn),
    challenge,
    log,
    count,
    note,
    tally,
    touch,
    now,
    newId,
    remember,
    metadata: database,
    blobs: blobs ?? unopened('blobs'),
    tokens,
    passwords,
    logins: authentication,
    limits: config.limits,
    sha256,
    about: { version: assets.version, instance },
    rules: { builtIn },
    trusts: identities.trusts,
    collector: undefined,
    retention,
    files: blobs,
    outgoing: createOutgoingFetch(),
    space,
    browserLogins: identities.browserLogins,
    ready: async () => {
      await database.read.all('SELECT epoch FROM instance')
      return blobs && !(await blobs.healthy()) ? 'the blob store cannot be read' : undefined
    },
    renderMetrics: metrics.render,
  }

  const checkpoints = setInterval(() => {
    if (database.walBytes() === 0) return
    database.checkpoint?.().then(
      ({ walBytes }) => {
        if (walBytes > walLargeBytes) logger.log({ level: 'warn', event: 'wal_large', bytes: walBytes })
      },
      (error) => logger.log({ level: 'warn', event: 'checkpoint_failed', error: String(error) }),
    )
  }, checkpointEveryMs).unref()

  logger.log({
    level: 'info',
    event: 'opened',
    database: opening.database,
    blobs: opening.blobs?.access ?? 'nothing',
    auth_key: key !== undefined,
    identities: opening.identities,
  })
  const running = new Set<Exchange>()
  const fetch = mount(handlers, assets.routes)
  let stopJobs: (() => Promise<void>) | undefined
  return {
    fetch(request, own, exchange) {
      running.add(exchange)
      return fetch(request, own, exchange)
    },
    ended: (exchange) => void running.delete(exchange),
    servesRpc: handlers.some(({ endpoints }) => endpoints.some(({ path }) => path.startsWith('/mcr.v1.'))),
    ctx,
    logger,
    metrics,
    descriptors,
    alarm,
    database,
    admin,
    startJobs(names) {
      const known = jobsOf(config, { retention, secret, mcias: identities.mcias, space, clock, busy: () => running.size > 0 })
      stopJobs = startJobs(selectJobs(known, names), ctx, newId())
    },
    async close() {
      clock.stop()
      clearInterval(checkpoints)
      clearInterval(gathered)
      await stopJobs?.()
      await flush({ everything: true }).catch((error) =>
        logger.log({ level: 'warn', event: 'journal_late', error: String(error) }),
      )
      await database.close()
    },
  }
}
