import type { Sql } from '../metadata/sql.ts'
import type { Action } from '../policy/actions.ts'
import { compileGlob } from '../policy/glob.ts'
import { type Account, type AccountRow, accountColumns, toAccount } from './accounts.ts'
import type { Narrowing } from './principal.ts'
import { hashSecret, makeSecret, type SecretKind } from './secrets.ts'

/** What a credential is limited to, as its row keeps it; empty lists limit nothing. */
export interface CredentialScope {
  readonly actions: readonly Action[]
  readonly repositories: readonly string[]
}

export interface Credential {
  readonly id: number
  readonly kind: SecretKind | 'password' | 'external'
  readonly version: number
  readonly expiresAt: number | null
  readonly account: Account
  readonly narrowing?: Narrowing
  /** ms since 1970, of what another service vouches for */
  readonly validatedAt: number | null
}

interface CredentialRow extends AccountRow {
  credentialId: number
  credentialKind: Credential['kind']
  credentialVersion: number
  expiresAt: number | null
  scope: string | null
  validatedAt: number | null
}

const select = `SELECT ${accountColumns}, c.id AS credentialId, c.kind AS credentialKind, c.version AS credentialVersion,
  c.expires_at AS expiresAt, c.scope, c.validated_at AS validatedAt FROM credentials c JOIN accounts a ON a.id = c.account_id`

/** The credential of an id as it stands now, with its account; undefined when it is gone. */
export async function findCredential(sql: Sql, id: number): Promise<Credential | undefined> {
  const [row] = await sql.all<CredentialRow>(`${select} WHERE c.id = ?`, [id])
  return row && toCredential(row)
}

/** The credential that a secret proves, by the secret's hash; undefined when there is none. */
export async function findSecret(sql: Sql, hash: string): Promise<Credential | undefined> {
  const [row] = await sql.all<CredentialRow>(`${select} WHERE c.secret = ? AND c.kind <> 'password'`, [hash])
  return row && toCredential(row)
}

/** Whether a credential counts at this moment: not expired, its account not disabled. */
export function isAlive(credential: Credential, now: number): boolean {
  return !credential.account.disabled && (credential.expiresAt ?? Number.POSITIVE_INFINITY) > now
}

function toCredential({
  credentialId,
  credentialKind,
  credentialVersion,
  expiresAt,
  scope,
  validatedAt,
  ...account
}: CredentialRow): Credential {
  return {
    id: credentialId,
    kind: credentialKind,
    version: credentialVersion,
    expiresAt,
    validatedAt,
    account: toAccount(account),
    narrowing: scope === null ? undefined : compileScope(JSON.parse(scope) as CredentialScope),
  }
}

/** What never needs naming in a scope: the ping, and the list of what the rest shows. */
const always: readonly Action[] = ['registry:version_check', 'registry:catalog']

/** A scope as a question: may this be done with it? It only narrows; what the account may not, it may not. */
export function compileScope({ actions, repositories }: CredentialScope): Narrowing {
  const globs = repositories.map(compileGlob)
  return (action, repository) => {
    if (always.includes(action)) return true
    const named = action === 'registry:overwrite' ? 'registry:push' : action
    if (actions.length > 0 && !actions.includes(action) && !actions.includes(named)) return false
    return globs.length === 0 || (repository !== undefined && globs.some((matches) => matches(repository)))
  }
}

/** Adds a secret to an account. Shape: the row's id, and the secret itself, which is kept nowhere else. */
export async function prepareSecret(kind: SecretKind): Promise<{ secret: string; hash: string }> {
  const secret = makeSecret(kind)
  return { secret, hash: await hashSecret(secret) }
}

export interface NewCredential {
  accountId: number
  kind: Credential['kind']
  name: string
  hash: string
  scope?: CredentialScope
  expiresAt: number | null
  now: number
}

/** Shape: the row's id. */
export async function addCredential(sql: Sql, credential: NewCredential): Promise<number> {
  const { accountId, kind, name, hash, scope, expiresAt, now } = credential
  const narrows = scope && (scope.actions.length > 0 || scope.repositories.length > 0)
  const [row] = await sql.all<{ id: number }>(
    `INSERT INTO credentials(account_id, kind, name, secret, scope, created_at, expires_at) VALUES (?,?,?,?,?,?,?) RETURNING id`,
    [accountId, kind, name, hash, narrows ? JSON.stringify(scope) : null, now, expiresAt],
  )
  return (row as { id: number }).id
}

export interface ListedCredential {
  id: number
  kind: Credential['kind']
  name: string
  account: string
  accountId: number
  scope: string | null
  createdAt: number
  expiresAt: number | null
  lastUsedAt: number | null
}

const listColumns = `c.id, c.kind, c.name, a.name AS account, c.account_id AS accountId, c.scope, c.created_at AS createdAt,
  c.expires_at AS expiresAt, c.last_used_at AS lastUsedAt`

/** Secrets of an account that have not expired, oldest first. */
export async function listCredentials(sql: Sql, accountId: number, now: number): Promise<ListedCredential[]> {
  return await sql.all<ListedCredential>(
    `SELECT ${listColumns} FROM credentials c JOIN accounts a ON a.id = c.account_id
     WHERE c.account_id = ? AND c.kind <> 'password' AND coalesce(c.expires_at, ?) >= ? ORDER BY c.id`,
    [accountId, now, now],
  )
}

/** One secret by its row, or undefined. */
export async function findListed(sql: Sql, id: number): Promise<ListedCredential | undefined> {
  const [row] = await sql.all<ListedCredential>(
    `SELECT ${listColumns} FROM credentials c JOIN accounts a ON a.id = c.account_id WHERE c.id = ? AND c.kind <> 'password'`,
    [id],
  )
  return row
}

/**
 * A credential of another service, found again by its hash; made where it is new. What it may be used for and how long is as that service
 * says now. Shape: its row's id.
 */
export async function upsertExternal(
  sql: Sql,
  credential: Omit<NewCredential, 'kind'> & { validatedAt: number; sealed: Uint8Array | null },
): Promise<number> {
  const { accountId, name, hash, scope, expiresAt, now, validatedAt, sealed } = credential
  await sql.run(`DELETE FROM credentials WHERE kind = 'external' AND account_id = ? AND expires_at < ?`, [accountId, now])
  const [row] = await sql.all<{ id: number }>(
    `INSERT INTO credentials(account_id, kind, name, secret, scope, created_at, expires_at, validated_at, sealed)
     VALUES (?, 'external', ?, ?, ?, ?, ?, ?, ?)
     ON CONFLICT (secret) WHERE kind <> 'password' DO UPDATE SET scope = excluded.scope, expires_at = excluded.expires_at,
       validated_at = excluded.validated_at RETURNING id`,
    [accountId, name, hash, scope ? JSON.stringify(scope) : null, now, expiresAt, validatedAt, sealed],
  )
  return (row as { id: number }).id
}

/** Revokes a secret: what was made from it stops counting with the next request. */
export async function removeCredential(sql: Sql, id: number): Promise<void> {
  await sql.run(`DELETE FROM credentials WHERE id = ?`, [id])
}
