import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { compileGlob } from '../lib/policy/glob.ts'
import type { Config, ConfigProblem } from './config.ts'
import type { Found } from './config-sources.ts'
import type { Value } from './config-values.ts'

/** The configuration of values by key, each good by itself; what is wrong with them together goes to `problems`. */
export function assemble(
  values: ReadonlyMap<string, Value>,
  problems: ConfigProblem[],
  found: ReadonlyMap<string, Found>,
): Config {
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

/** A value for a message: short. */
export function show(raw: unknown): string {
  return (typeof raw === 'string' ? raw : JSON.stringify(raw)).slice(0, 200)
}
