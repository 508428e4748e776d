import type { Authentication, Credentialed, Plane } from './auth/authenticate.ts'
import type { BrowserLogins } from './auth/browser-login.ts'
import type { PasswordHasher } from './auth/passwords.ts'
import type { Caller } from './auth/principal.ts'
import type { TokenKeys } from './auth/tokens.ts'
import type { TrustedIdentity } from './auth/trusts.ts'
import type { BlobStore } from './blobs/blob-store.ts'
import type { Retention } from './jobs/retention.ts'
import type { Sha256 } from './journal/chain.ts'
import type { DecisionMade, NotedEvent } from './journal/gather.ts'
import type { MetadataStore, Sql } from './metadata/sql.ts'
import type { LogEvent } from './observe/log.ts'
import type { MetricName } from './observe/metrics.ts'
import type { Action } from './policy/actions.ts'
import type { Decision } from './policy/evaluate.ts'
import type { Rule } from './policy/rule.ts'
import type { OutgoingFetch } from './remote/registry.ts'

/**
 * One request as the machine saw it, and what became of it. The runtime makes it, the pipeline fills in the second half, and the runtime
 * writes the log line when the last byte has left. Plain data and functions: it crosses bundle boundaries.
 */
export interface Exchange {
  readonly id: string
  /** The client's address, behind trusted proxies the first untrusted hop. */
  address: string
  /** `https://host:port` as the client may use it; from `server.public_url`, never from an untrusted Host. */
  origin: string
  /** Answers `Expect: 100-continue`, once the request is allowed. */
  proceed(): void
  endpoint?: string
  /** What a token must hold for this endpoint: every challenge names it. */
  scope?: string
  principal?: string
  repository?: string
  action?: string
  /** The rule that refused. */
  ruleId?: number
  /** The protocol code of a refusal, and the cause of an internal failure: for the log, never for the client. */
  errorCode?: string
  cause?: unknown
}

export interface Resource {
  repository?: string
  tag?: string
}

/** What every endpoint is given. */
export interface Base {
  /** Who calls. Errors: UNAUTHORIZED with a challenge (bad credentials), TOOMANYREQUESTS, UNAVAILABLE. */
  authenticate(request: Credentialed, exchange: Exchange, plane: Plane): Promise<Caller>
  /**
   * What the policy says of the caller's principal, narrowed by its credential but not by what its registry token asked for. With `sql` it is decided from the rules as that
   * transaction sees them: what guards a change is decided where the change is made.
   */
  decide(caller: Caller, exchange: Exchange, action: Action, resource?: Resource, sql?: Sql): Promise<Decision>
  /** The value of the one `WWW-Authenticate` header. `scope` as in the token protocol; `problem` only when a token was sent. */
  challenge(exchange: Exchange, scope?: string, problem?: 'invalid_token' | 'insufficient_scope'): string
  log(event: LogEvent): void
  /** For the journal, within a second: what changes nothing. */
  note(event: NotedEvent): void
  /** For the hourly aggregate of what was decided. */
  tally(decision: DecisionMade): void
  /** A credential was used. */
  touch(credentialId: number): void
  count(metric: MetricName, labels?: Record<string, string>, by?: number): void
  /** Milliseconds since 1970. */
  now(): number
  /** A random UUID: upload ids, event ids. Never used twice. */
  newId(): string
  /**
   * The answer of `load`, kept while the database has not changed since before it ran, and no longer than `until` (ms since 1970) says.
   * What a failed `load` throws is not kept.
   */
  remember<T>(key: string, load: () => Promise<T>, until?: (value: T) => number | undefined): Promise<T>
}

/** The machine, as lib sees it. An endpoint names the ones it needs. */
export interface Ports {
  metadata: MetadataStore
  blobs: BlobStore
  tokens: TokenKeys
  passwords: PasswordHasher
  logins: Pick<Authentication, 'login'>
  limits: Limits
  /** Room for more. `admit` refuses what would make the registry larger while there is none. Errors: BLOB_FULL. */
  space: { admit(bytes?: number): void }
  /** SHA-256 without waiting, for the chain of the journal. */
  sha256: Sha256
  /** What this registry is. */
  about: { readonly version: string; readonly instance: string }
  /** The rules that are always there. */
  rules: { readonly builtIn: readonly Rule[] }
  /** Issuers whose ID tokens are exchanged. */
  trusts: { identify(token: string): Promise<TrustedIdentity | undefined> }
  /** Where nothing else runs jobs (the command line on this host), what an operation needs to collect garbage itself. */
  collector: { readonly blobs: BlobStore } | undefined
  /** How long things stay. */
  retention: Retention
  /** The blob store for operations that look at files; absent where this process has none. */
  files: BlobStore | undefined
  /** To addresses that an operator named: no redirects, no proxy. */
  outgoing: OutgoingFetch
  /** The issuer that people log in through, where one is configured. */
  browserLogins: BrowserLogins | undefined
  /** Why this process cannot serve now, or undefined. Errors: those of the database. */
  ready(): Promise<string | undefined>
  /** The process's numbers in Prometheus' text format. */
  renderMetrics(): Promise<string>
}

/** Bounds of what a client may ask for; sizes in bytes, times in milliseconds. */
export interface Limits {
  manifestBytes: number
  jsonDepth: number
  jsonTokens: number
  layers: number
  children: number
  blobBytes: number
  uploadsPerPrincipal: number
  /** Entries of a page when the client names no number, and the most it gets. */
  pageDefault: number
  pageMax: number
  tagsPerRequest: number
  ranges: number
  tokenScopes: number
  /** Whether indexes and images may name what is not there. */
  sparse: 'deny' | 'allow'
  /** Idle time after which an upload is forgotten. */
  uploadIdleMs: number
  deleteEnabled: boolean
}

export type RegistryContext = Base & Ports
