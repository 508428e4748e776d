import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parse as parseToml } from 'smol-toml'
import type { Limits } from '../lib/context.ts'
import type { RetentionOptions } from '../lib/jobs/retention.ts'
import { compileGlob } from '../lib/policy/glob.ts'
import { type Key, keys } from './config-keys.ts'
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

interface Found {
  raw: unknown
  from: string
}

/**
 * The configuration from a file and the environment; `MCR_<SECTION>_<KEY>` wins over the file, `$PORT` over both.
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
  const file = named ?? (existsSync('mcr.toml') ? 'mcr.toml' : undefined)
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
    const host = String(values.get(key) ?? values.get('server.listen_addr') ?? ':').replace(/:[0-9]*$/, '')
    if (/^[0-9]{1,5}$/.test(port)) values.set(key, `${host}:${port}`)
    else problems.push({ key: `$${variable}`, from: 'environment', value: port, expected: 'a port number' })
  }
  const config = assemble(values, problems, found)
  if (problems.length > 0) return { problems, file }
  return { config: deepFreeze(config), file, sources: new Map([...found].map(([key, { from }]) => [key, from])) }
}

function readFile(file: string, found: Map<string, Found>, problems: ConfigProblem[]): void {
  let document: Record<string, unknown>
  try {
    document = parseToml(readFileSync(file, 'utf8')) as Record<string, unknown>
  } catch (error) {
    problems.push({
      key: file,
      from: 'file',
      expected: `a TOML file that can be read: ${(error as Error).message.split('\n')[0]}`,
    })
    return
  }
  for (const [section, entries] of Object.entries(document)) {
    if (!Object.hasOwn(keys, section) || typeof entries !== 'object' || entries === null) {
      problems.push({ key: section, from: file, expected: unknown(section, Object.keys(keys), 'section') })
      continue
    }
    const known = keys[section as keyof typeof keys]
    for (const [name, raw] of Object.entries(entries)) {
      if (Object.hasOwn(known, name)) found.set(`${section}.${name}`, { raw, from: file })
      else problems.push({ key: `${section}.${name}`, from: file, expected: unknown(name, Object.keys(known), 'key') })
    }
  }
}

/** Variables that are MCR's and no keys. */
const otherVariables = new Set(['MCR_CONFIG', 'MCR_AUTH_KEY', 'MCR_SERVER', 'MCR_TOKEN', 'MCR_NATIVE_DIR', 'MCR_WORKER'])

function readEnvironment(
  env: Readonly<Record<string, string | undefined>>,
  found: Map<string, Found>,
  problems: ConfigProblem[],
): void {
  const byVariable = new Map(
    Object.entries(keys).flatMap(([section, entries]) =>
      Object.keys(entries).map((name) => [`MCR_${section}_${name}`.toUpperCase(), `${section}.${name}`]),
    ),
  )
  for (const [variable, raw] of Object.entries(env)) {
    if (!variable.startsWith('MCR_') || variable.startsWith('MCR_TEST_') || otherVariables.has(variable) || raw === undefined)
      continue
    const key = byVariable.get(variable)
    if (key) found.set(key, { raw, from: `$${variable}` })
    else
      problems.push({ key: `$${variable}`, from: 'environment', expected: unknown(variable, [...byVariable.keys()], 'variable') })
  }
}

function unknown(name: string, known: string[], what: string): string {
  const [nearest] = known
    .map((entry) => [distance(name.toLowerCase(), entry.toLowerCase()), entry] as const)
    .sort((a, b) => a[0] - b[0])
  return nearest && nearest[0] <= Math.max(3, name.length / 3)
    ? `no such ${what}; did you mean ${nearest[1]}?`
    : `no such ${what}; known are ${known.slice(0, 20).join(', ')}`
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next.push(
        Math.min((row[j] as number) + 1, (next[j - 1] as number) + 1, (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      )
    row = next
  }
  return row[b.length] as number
}

function show(raw: unknown): string {
  return (typeof raw === 'string' ? raw : JSON.stringify(raw)).slice(0, 200)
}

function assemble(values: ReadonlyMap<string, Value>, problems: ConfigProblem[], found: ReadonlyMap<string, Found>): Config {
  const text = (key: string) => values.get(key) as string | undefined
  const number = (key: string) => values.get(key) as number
  const problem = (key: string, expected: string) =>
    problems.push({ key, from: found.get(key)?.from ?? 'default', value: show(values.get(key) ?? ''), expected })
  const root = text('storage.root') ?? './data'
  if ((text('server.tls_cert') === undefined) !== (text('server.tls_key') === undefined))
    problem(
      text('server.tls_cert') === undefined ? 'server.tls_cert' : 'server.tls_key',
      'set together: server.tls_cert and server.tls_key',
    )
  for (const key of [
    'server.tls_cert',
    'server.tls_key',
    'auth.bootstrap_password_file',
    'database.auth_token_file',
    'mcias.ca_cert',
    'sso.client_secret_file',
  ])
    if (text(key) !== undefined && !existsSync(text(key) as string)) problem(key, 'a file that exists')
  if (number('storage.scrub_rate') < 65_536) problem('storage.scrub_rate', '64KiB at least; storage.scrub_cycle = "0s" is never')
  if (number('auth.token_ttl') < 60_000) problem('auth.token_ttl', '60s at least: clients raise shorter lives to that')
  if (number('limits.manifest_size') > 4 * 2 ** 20) problem('limits.manifest_size', '4MiB at most: clients read no larger ones')
  if (text('mcias.server_url')?.startsWith('http:')) problem('mcias.server_url', 'an https address: passwords go there')
  if (!/^\/[A-Za-z0-9._/-]*\/$/.test(text('server.accel_prefix') ?? ''))
    problem('server.accel_prefix', 'a path such as /_mcr_blobs/, beginning and ending in a slash')
  for (const glob of (values.get('storage.untagged_repositories') ?? []) as readonly string[])
    if (!isGlob(glob)) problem('storage.untagged_repositories', `globs such as ci/**; ${glob} is none`)
  const issuer = text('sso.issuer')
  if (
    issuer !== undefined &&
    !/^https:\/\/[^\s?#]+$|^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(\/[^\s?#]*)?$/.test(issuer)
  )
    problem('sso.issuer', 'an https address, exactly as the issuer names itself')
  if ((text('sso.issuer') === undefined) !== (text('sso.client_id') === undefined))
    problem(text('sso.issuer') === undefined ? 'sso.issuer' : 'sso.client_id', 'set together: sso.issuer and sso.client_id')
  const secretFrom = (key: string) => {
    const file = text(key)
    return file !== undefined && existsSync(file) ? readFileSync(file, 'utf8').replace(/\r?\n$/, '') : undefined
  }
  return {
    server: {
      listenAddr: text('server.listen_addr') ?? '',
      grpcAddr: text('server.grpc_addr'),
      adminAddr: text('server.admin_addr'),
      tlsCert: text('server.tls_cert'),
      tlsKey: text('server.tls_key'),
      publicUrl: text('server.public_url'),
      trustedProxies: (values.get('server.trusted_proxies') ?? []) as readonly string[],
      workers: workersOf(text('server.workers')),
      accel: text('server.accel') as Config['server']['accel'],
      accelPrefix: text('server.accel_prefix') ?? '',
      shutdownTimeoutMs: number('server.shutdown_timeout'),
      maxConnections: number('server.max_connections'),
      maxConnectionsPerAddress: number('server.max_connections_per_address'),
      minBodyRate: number('server.min_body_rate'),
    },
    database: {
      path: text('database.path') ?? join(root, 'mcr.db'),
      url: text('database.url'),
      authToken: text('database.auth_token') ?? secretFrom('database.auth_token_file'),
    },
    storage: {
      root,
      layersPath: text('storage.layers_path') ?? join(root, 'blobs'),
      uploadsPath: text('storage.uploads_path') ?? join(root, 'uploads'),
      freeFloor: values.get('storage.free_floor') as number | undefined,
      ballast: number('storage.ballast'),
      retention: {
        graceMs: number('storage.gc_grace'),
        windowMs: number('storage.undelete_window'),
        untaggedMs: number('storage.untagged_after'),
        untaggedRepositories: (values.get('storage.untagged_repositories') ?? []) as readonly string[],
        ratePerSecond: number('storage.gc_rate'),
      },
      gcIntervalMs: number('storage.gc_interval'),
      scrubCycleMs: number('storage.scrub_cycle'),
      scrubBytesPerSecond: number('storage.scrub_rate'),
    },
    auth: {
      bootstrapPassword: text('auth.bootstrap_password') ?? secretFrom('auth.bootstrap_password_file'),
      keyFile: text('auth.key_file') ?? join(root, 'auth.key'),
      tokenTtlSeconds: number('auth.token_ttl') / 1000,
    },
    policy: { userContent: values.get('policy.user_content') as boolean },
    mcias: {
      serverUrl: text('mcias.server_url'),
      caCert: text('mcias.ca_cert'),
      serviceName: text('mcias.service_name'),
      tags: (values.get('mcias.tags') ?? []) as readonly string[],
      issuer: text('mcias.issuer') ?? text('mcias.server_url'),
      accountType: text('mcias.account_type') as 'human' | 'system',
      offlineGraceMs: number('mcias.offline_grace'),
    },
    sso: {
      issuer: text('sso.issuer'),
      clientId: text('sso.client_id'),
      clientSecret: text('sso.client_secret') ?? secretFrom('sso.client_secret_file'),
      redirectUri: text('sso.redirect_uri'),
      roles: (values.get('sso.roles') ?? []) as readonly string[],
      rolesClaim: text('sso.roles_claim'),
    },
    audit: {
      pulls: text('audit.pulls') as Config['audit']['pulls'],
      retentionMs: number('audit.retention'),
      pullRetentionMs: number('audit.pull_retention'),
    },
    limits: {
      manifestBytes: number('limits.manifest_size'),
      jsonDepth: number('limits.json_depth'),
      jsonTokens: number('limits.json_tokens'),
      layers: number('limits.layers'),
      children: number('limits.children'),
      blobBytes: number('limits.blob_size'),
      uploadsPerPrincipal: number('limits.uploads_per_principal'),
      pageDefault: number('limits.page_default'),
      pageMax: number('limits.page_max'),
      tagsPerRequest: number('limits.tags_per_request'),
      ranges: number('limits.ranges'),
      tokenScopes: number('limits.token_scopes'),
      uploadIdleMs: number('limits.upload_idle'),
      deleteEnabled: values.get('limits.delete_enabled') as boolean,
      sparse: text('storage.sparse') as 'deny' | 'allow',
    },
    log: { level: text('log.level') as Config['log']['level'], format: text('log.format') as Config['log']['format'] },
  }
}

/** As many as there are processors for this process, cgroup limits counted, where it says auto. */
function workersOf(value: string | undefined): number | undefined {
  return value === 'auto' ? availableParallelism() : value === undefined ? undefined : Number(value)
}

function isGlob(text: string): boolean {
  try {
    compileGlob(text)
    return true
  } catch {
    return false
  }
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
