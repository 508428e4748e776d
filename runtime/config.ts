import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse as parseToml } from 'smol-toml'
import type { Limits } from '../lib/context.ts'
import { parseListen } from './addresses.ts'

type Kind =
  | 'text'
  | 'secret'
  | 'path'
  | 'listen'
  | 'url'
  | 'duration'
  | 'size'
  | 'count'
  | 'switch'
  | 'list'
  | 'networks'
  | readonly string[]

interface Key {
  kind: Kind
  /** As it would be written in the file; absent: unset. */
  byDefault?: string
  help: string
  /** Known because the original's files have it. */
  original?: true
}

/** Every key there is: section, name, how it is read, what it is without being set, and what it is for. */
export const keys = {
  server: {
    listen_addr: {
      kind: 'listen',
      byDefault: '127.0.0.1:5000',
      help: 'Where to listen: host:port, or unix: and a path. $PORT overrides the port.',
    },
    tls_cert: {
      kind: 'path',
      help: 'Certificate chain in PEM. With it the port speaks HTTPS, HTTP/1.1 and HTTP/2. Reloaded when the file changes.',
    },
    tls_key: { kind: 'path', help: 'Private key in PEM, readable by the owner (and group) only.' },
    public_url: {
      kind: 'url',
      help: 'The address clients use, such as https://registry.example.com. Needed when it is not loopback and not in the certificate.',
    },
    trusted_proxies: {
      kind: 'networks',
      byDefault: '',
      help: 'Addresses or networks of reverse proxies whose X-Forwarded-* headers count. With it plain HTTP may listen off loopback.',
    },
    shutdown_timeout: { kind: 'duration', byDefault: '60s', help: 'How long running requests may take to end after SIGTERM.' },
    max_connections: { kind: 'count', byDefault: '4096', help: 'Connections at a time.' },
    max_connections_per_address: {
      kind: 'count',
      byDefault: '256',
      help: 'Connections at a time from one address; loopback and proxies are exempt.',
    },
    min_body_rate: { kind: 'size', byDefault: '1KiB', help: 'Bytes a second that a request body must bring, over 60 seconds.' },
    grpc_addr: { kind: 'listen', help: 'Reserved for gRPC on plain HTTP.', original: true },
    admin_addr: { kind: 'listen', help: 'Reserved for a listener of its own for administration.' },
    read_timeout: {
      kind: 'duration',
      byDefault: '0s',
      help: 'Known for old files; bodies are watched by min_body_rate instead.',
      original: true,
    },
    write_timeout: { kind: 'duration', byDefault: '0s', help: 'Known for old files; has no effect.', original: true },
    idle_timeout: {
      kind: 'duration',
      byDefault: '95s',
      help: 'Known for old files; idle connections are kept for 95 seconds.',
      original: true,
    },
  },
  database: {
    path: { kind: 'path', help: 'The metadata database. Default: mcr.db in storage.root. On a local disk.' },
  },
  storage: {
    root: { kind: 'path', byDefault: './data', help: 'Directory of everything the registry keeps.' },
    layers_path: { kind: 'path', help: 'Finished blobs. Default: blobs in storage.root.' },
    uploads_path: {
      kind: 'path',
      help: 'Uploads under way, on the same file system as layers_path. Default: uploads in storage.root.',
    },
    sparse: {
      kind: ['deny', 'allow'],
      byDefault: 'deny',
      help: 'Whether manifests may name blobs and children that are not here.',
    },
    free_floor: { kind: 'size', byDefault: '1GiB', help: 'Free bytes below which uploads are refused with 507.' },
  },
  auth: {
    bootstrap_password: { kind: 'secret', help: 'Password of the first admin, instead of a random one.' },
    bootstrap_password_file: { kind: 'path', help: 'A file with it.' },
    key_file: {
      kind: 'path',
      help: 'Key that seals the token signing keys in the database; made at first start. Default: auth.key in storage.root.',
    },
    token_ttl: { kind: 'duration', byDefault: '5m', help: 'Life of a registry token, 60s at least.' },
  },
  policy: {
    user_content: {
      kind: 'switch',
      byDefault: 'true',
      help: 'The built-in rule that people with the role user may pull, push and delete everywhere.',
    },
  },
  limits: {
    manifest_size: { kind: 'size', byDefault: '4MiB', help: 'Largest manifest.' },
    blob_size: { kind: 'size', byDefault: '100GiB', help: 'Largest blob.' },
    json_depth: { kind: 'count', byDefault: '64', help: 'Deepest nesting of a manifest.' },
    json_tokens: { kind: 'count', byDefault: '100000', help: 'Most values of a manifest.' },
    layers: { kind: 'count', byDefault: '512', help: 'Most layers of an image.' },
    children: { kind: 'count', byDefault: '1000', help: 'Most manifests of an index.' },
    uploads_per_principal: { kind: 'count', byDefault: '64', help: 'Uploads one account may have open.' },
    page_default: { kind: 'count', byDefault: '100', help: 'Entries of a catalog page when the client names no number.' },
    page_max: { kind: 'count', byDefault: '10000', help: 'Most entries of a page; tags come in pages of this size.' },
    tags_per_request: { kind: 'count', byDefault: '100', help: 'Most ?tag= of one manifest push.' },
    ranges: { kind: 'count', byDefault: '1024', help: 'Most ranges of one blob request.' },
    token_scopes: { kind: 'count', byDefault: '100', help: 'Most scopes of one token request.' },
    upload_idle: { kind: 'duration', byDefault: '24h', help: 'Idle time after which an upload is forgotten.' },
    delete_enabled: { kind: 'switch', byDefault: 'true', help: 'Whether anything may be deleted over the protocol.' },
  },
  mcias: {
    server_url: { kind: 'url', help: 'Remote identity service.', original: true },
    ca_cert: { kind: 'path', help: 'Its certificate authority.', original: true },
    service_name: { kind: 'text', help: 'Our name there.', original: true },
    tags: { kind: 'list', byDefault: '', help: 'Our tags there.', original: true },
  },
  sso: {
    redirect_uri: { kind: 'url', help: 'Where a browser login comes back to.', original: true },
  },
  web: {
    listen_addr: { kind: 'listen', help: 'Known for old files.', original: true },
    grpc_addr: { kind: 'text', help: 'Known for old files.', original: true },
    ca_cert: { kind: 'path', help: 'Known for old files.', original: true },
    tls_cert: { kind: 'path', help: 'Known for old files.', original: true },
    tls_key: { kind: 'path', help: 'Known for old files.', original: true },
  },
  log: {
    level: { kind: ['debug', 'info', 'warn', 'error'], byDefault: 'info', help: 'Least level that is logged.' },
    format: { kind: ['auto', 'json', 'pretty'], byDefault: 'auto', help: 'auto: pretty on a terminal, JSON elsewhere.' },
  },
} as const satisfies Record<string, Record<string, Key>>

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
    tlsCert?: string
    tlsKey?: string
    publicUrl?: string
    trustedProxies: readonly string[]
    shutdownTimeoutMs: number
    maxConnections: number
    maxConnectionsPerAddress: number
    minBodyRate: number
  }
  readonly database: { path: string }
  readonly storage: { root: string; layersPath: string; uploadsPath: string; freeFloor: number }
  readonly auth: { bootstrapPassword?: string; keyFile: string; tokenTtlSeconds: number }
  readonly policy: { userContent: boolean }
  readonly limits: Limits
  readonly log: { level: 'debug' | 'info' | 'warn' | 'error'; format: 'auto' | 'json' | 'pretty' }
}

type Value = string | number | boolean | readonly string[]
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
  const port = options.env.PORT
  if (port !== undefined && port !== '') {
    if (/^[0-9]{1,5}$/.test(port))
      values.set('server.listen_addr', `${String(values.get('server.listen_addr') ?? ':').replace(/:[0-9]*$/, '')}:${port}`)
    else problems.push({ key: '$PORT', from: 'environment', value: port, expected: 'a port number' })
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
const otherVariables = new Set(['MCR_CONFIG', 'MCR_AUTH_KEY'])

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

const durationUnits: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
}

function parseValue(kind: Kind, raw: unknown): Value | Error {
  const text = typeof raw === 'number' || typeof raw === 'bigint' || typeof raw === 'boolean' ? String(raw) : raw
  if (kind === 'list' || kind === 'networks') {
    const list = Array.isArray(raw)
      ? raw.map(String)
      : typeof text === 'string'
        ? text
            .split(',')
            .map((entry) => entry.trim())
            .filter(Boolean)
        : undefined
    if (!list) return new Error('a list of texts')
    if (kind === 'networks')
      for (const entry of list)
        if (!/^[0-9a-fA-F:.]+(\/[0-9]{1,3})?$/.test(entry))
          return new Error(`addresses or networks such as 10.0.0.0/8; ${entry} is none`)
    return list
  }
  if (typeof text !== 'string') return new Error('a single value')
  if (Array.isArray(kind)) return kind.includes(text) ? text : new Error(`one of ${kind.join(', ')}`)
  switch (kind) {
    case 'switch':
      return text === 'true' ? true : text === 'false' ? false : new Error('true or false')
    case 'count':
      return /^[0-9]{1,12}$/.test(text) ? Number(text) : new Error('a whole number')
    case 'duration': {
      const match = /^([0-9]{1,9})(ms|s|m|h|d)$/.exec(text)
      return match
        ? Number(match[1]) * (durationUnits[match[2] as string] as number)
        : new Error('a duration such as 30s, 5m, 24h')
    }
    case 'size': {
      const match = /^([0-9]{1,15}) ?([KMGT]?I?B|)$/.exec(text.toUpperCase())
      const unit = match && sizeUnits[match[2] as string]
      return match && unit !== undefined && unit !== null ? Number(match[1]) * unit : new Error('a size such as 512MiB, 4GB')
    }
    case 'url':
      return /^https?:\/\/[A-Za-z0-9.:[\]_-]+(\/[^?#]*)?$/.test(text)
        ? text.replace(/\/+$/, '')
        : new Error('an http or https address without query')
    case 'listen':
      try {
        if (!text.startsWith('unix:/')) parseListen(text)
        return text
      } catch {
        return new Error('host:port, :port or unix:/path')
      }
    default:
      return text
  }
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
  for (const key of ['server.tls_cert', 'server.tls_key', 'auth.bootstrap_password_file'])
    if (text(key) !== undefined && !existsSync(text(key) as string)) problem(key, 'a file that exists')
  if (number('auth.token_ttl') < 60_000) problem('auth.token_ttl', '60s at least: clients raise shorter lives to that')
  if (number('limits.manifest_size') > 4 * 2 ** 20) problem('limits.manifest_size', '4MiB at most: clients read no larger ones')
  const passwordFile = text('auth.bootstrap_password_file')
  const fromFile =
    passwordFile !== undefined && existsSync(passwordFile) ? readFileSync(passwordFile, 'utf8').replace(/\r?\n$/, '') : undefined
  return {
    server: {
      listenAddr: text('server.listen_addr') ?? '',
      tlsCert: text('server.tls_cert'),
      tlsKey: text('server.tls_key'),
      publicUrl: text('server.public_url'),
      trustedProxies: (values.get('server.trusted_proxies') ?? []) as readonly string[],
      shutdownTimeoutMs: number('server.shutdown_timeout'),
      maxConnections: number('server.max_connections'),
      maxConnectionsPerAddress: number('server.max_connections_per_address'),
      minBodyRate: number('server.min_body_rate'),
    },
    database: { path: text('database.path') ?? join(root, 'mcr.db') },
    storage: {
      root,
      layersPath: text('storage.layers_path') ?? join(root, 'blobs'),
      uploadsPath: text('storage.uploads_path') ?? join(root, 'uploads'),
      freeFloor: number('storage.free_floor'),
    },
    auth: {
      bootstrapPassword: text('auth.bootstrap_password') ?? fromFile,
      keyFile: text('auth.key_file') ?? join(root, 'auth.key'),
      tokenTtlSeconds: number('auth.token_ttl') / 1000,
    },
    policy: { userContent: values.get('policy.user_content') as boolean },
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
