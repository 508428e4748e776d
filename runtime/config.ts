import { existsSync } from 'node:fs'
import type { Limits } from '../lib/context.ts'
import type { RetentionOptions } from '../lib/jobs/retention.ts'
import { assemble, show } from './config-assemble.ts'
import { type Key, keys } from './config-keys.ts'
import { type Found, readEnvironment, readFile } from './config-sources.ts'
import { parseValue, type Value } from './config-values.ts'

/** One thing wrong with the configuration. `value` is never a secret. */
export interface ConfigProblem {
  key: string
  from: string
  value?: string
  expected: string
}

export interface Config {
  readonly server: {
    listenAddr: string
    grpcAddr?: string
    adminAddr?: string
    tlsCert?: string
    tlsKey?: string
    publicUrl?: string
    trustedProxies: readonly string[]
    accel: 'off' | 'nginx' | 'caddy'
    accelPrefix: string
    /** Absent: no parent, and this process serves. */
    workers?: number
    shutdownTimeoutMs: number
    maxConnections: number
    maxConnectionsPerAddress: number
    minBodyRate: number
  }
  readonly database: { path: string; url?: string; authToken?: string }
  readonly storage: {
    root: string
    layersPath: string
    uploadsPath: string
    freeFloor?: number
    ballast: number
    /** how long things stay, and how fast they go */
    retention: RetentionOptions
    gcIntervalMs: number
    scrubCycleMs: number
    scrubBytesPerSecond: number
  }
  readonly auth: { bootstrapPassword?: string; keyFile: string; tokenTtlSeconds: number }
  readonly policy: { userContent: boolean }
  readonly mcias: {
    serverUrl?: string
    caCert?: string
    serviceName?: string
    tags: readonly string[]
    issuer?: string
    accountType: 'human' | 'system'
    offlineGraceMs: number
  }
  readonly sso: {
    issuer?: string
    clientId?: string
    clientSecret?: string
    redirectUri?: string
    roles: readonly string[]
    rolesClaim?: string
  }
  readonly audit: { pulls: 'none' | 'sampled' | 'all'; retentionMs: number; pullRetentionMs: number }
  readonly limits: Limits
  readonly log: { level: 'debug' | 'info' | 'warn' | 'error'; format: 'auto' | 'json' | 'pretty' }
}

/** Where `mcr install` puts the configuration of this host. */
export const installedFile = '/etc/mcr/mcr.toml'

/**
 * The configuration from a file and the environment; `MCR_<SECTION>_<KEY>` wins over the file, `$PORT` over both. The file is
 * the one named here, else in `$MCR_CONFIG`, else the first of `./mcr.toml` and the installed one that is there.
 * Shape: the configuration, or everything that is wrong with it at once.
 */
export function loadConfig(options: {
  file?: string
  env: Readonly<Record<string, string | undefined>>
  overrides?: Readonly<Record<string, string>>
}): { config: Config; file?: string; sources: ReadonlyMap<string, string> } | { problems: ConfigProblem[]; file?: string } {
  const problems: ConfigProblem[] = []
  const found = new Map<string, Found>()
  const named = options.file ?? options.env.MCR_CONFIG
  const file = named ?? ['mcr.toml', installedFile].find((path) => existsSync(path))
  if (file !== undefined) readFile(file, found, problems)
  readEnvironment(options.env, found, problems)
  for (const [key, raw] of Object.entries(options.overrides ?? {})) found.set(key, { raw, from: 'command line' })

  const values = new Map<string, Value>()
  for (const [section, entries] of Object.entries(keys) as [string, Record<string, Key>][]) {
    for (const [name, key] of Object.entries(entries)) {
      const id = `${section}.${name}`
      const given = found.get(id) ?? (key.byDefault === undefined ? undefined : { raw: key.byDefault, from: 'default' })
      if (!given || given.raw === '') {
        if (given && (key.kind === 'list' || key.kind === 'networks')) values.set(id, [])
        continue
      }
      const value = parseValue(key.kind, given.raw)
      if (value instanceof Error)
        problems.push({
          key: id,
          from: given.from,
          value: key.kind === 'secret' ? undefined : show(given.raw),
          expected: value.message,
        })
      else values.set(id, value)
    }
  }
  for (const [variable, key] of [
    ['PORT', 'server.listen_addr'],
    ['PORT_GRPC', 'server.grpc_addr'],
  ] as const) {
    const port = options.env[variable]
    if (port === undefined || port === '') continue
    const address = String(values.get(key) ?? values.get('server.listen_addr') ?? ':')
    // A socket has no port.
    if (address.startsWith('unix:')) continue
    const host = address.replace(/:[0-9]*$/, '')
    if (/^[0-9]{1,5}$/.test(port) && Number(port) <= 65_535) values.set(key, `${host}:${port}`)
    else problems.push({ key: `$${variable}`, from: 'environment', value: port, expected: 'a port number' })
  }
  const config = assemble(values, problems, found)
  if (problems.length > 0) return { problems, file }
  return { config: deepFreeze(config), file, sources: new Map([...found].map(([key, { from }]) => [key, from])) }
}

function deepFreeze<T extends object>(value: T): T {
  for (const entry of Object.values(value)) if (typeof entry === 'object' && entry !== null) deepFreeze(entry)
  return Object.freeze(value)
}

/** Problems as lines a person reads. */
export function formatProblems(problems: readonly ConfigProblem[]): string {
  return problems
    .map(
      ({ key, from, value, expected }) =>
        `  ${key} (${from})${value === undefined ? '' : ` is ${JSON.stringify(value)}`}: ${expected}`,
    )
    .join('\n')
}
