import type { Sql } from '../metadata/sql.ts'
import type { Principal, PrincipalKind } from './principal.ts'

export interface Account extends Principal {
  /** local, robot, mcias, oidc */
  readonly source: string
  readonly disabled: boolean
  readonly createdAt: number
}

export const accountColumns = `a.id, a.subject, a.name, a.kind, a.roles, a.version, a.disabled, a.source, a.created_at AS createdAt`
export interface AccountRow {
  id: number
  subject: string
  name: string
  kind: PrincipalKind
  roles: string
  version: number
  source: string
  disabled: number
  createdAt: number
}
export const toAccount = (row: AccountRow): Account => ({
  ...row,
  roles: JSON.parse(row.roles) as string[],
  disabled: row.disabled !== 0,
})

/** Names of embedded accounts: what fits in a URL, a log line and a Basic header. Errors: a plain Error that says what is allowed. */
export function parseAccountName(text: string): string {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}$/.test(text))
    throw new Error(
      `account name ${JSON.stringify(text.slice(0, 80))}: 1 to 64 letters, digits, . _ @ -, beginning with a letter or digit`,
    )
  return text
}

/** A role's name. Errors: a plain Error. */
export function parseRole(text: string): string {
  if (!/^[a-z][a-z0-9_-]{0,31}$/.test(text))
    throw new Error(`role ${JSON.stringify(text.slice(0, 40))}: 1 to 32 lower-case letters, digits, _ -`)
  return text
}

export async function findAccount(sql: Sql, id: number): Promise<Account | undefined> {
  const rows = await sql.all<AccountRow>(`SELECT ${accountColumns} FROM accounts a WHERE a.id = ?`, [id])
  return rows[0] && toAccount(rows[0])
}

/**
 * Whether an account is as it was when it proved itself: whoever adds a secret to it asks in that transaction, or one that is on its way
 * would outlive a new password. Its version counts these, its roles and its state.
 */
export async function isUnchanged(sql: Sql, { id, version }: Pick<Account, 'id' | 'version'>): Promise<boolean> {
  const now = await findAccount(sql, id)
  return now !== undefined && !now.disabled && now.version === version
}

export interface PasswordLogin {
  account: Account
  credentialId: number
  credentialVersion: number
  hash: string
}

/** The embedded account of a name with its password, or undefined. */
export async function findPasswordLogin(sql: Sql, name: string): Promise<PasswordLogin | undefined> {
  const rows = await sql.all<AccountRow & { credentialId: number; credentialVersion: number; hash: string }>(
    `SELECT ${accountColumns}, c.id AS credentialId, c.version AS credentialVersion, c.secret AS hash
     FROM accounts a JOIN credentials c ON c.account_id = a.id AND c.kind = 'password' WHERE a.name = ? AND a.source = 'local'`,
    [name],
  )
  const row = rows[0]
  if (!row) return undefined
  const { credentialId, credentialVersion, hash, ...account } = row
  return { account: toAccount(account), credentialId, credentialVersion, hash }
}

/** Adds an embedded account. Errors: a constraint failure where the name is taken. Shape: its id. */
export async function addAccount(
  sql: Sql,
  account: {
    subject: string
    name: string
    kind: 'human' | 'system'
    source?: 'local' | 'robot'
    roles: readonly string[]
    /** absent for a robot, which has none */
    passwordHash?: string
    now: number
  },
): Promise<number> {
  const made = await sql.all<{ id: number }>(
    `INSERT INTO accounts(subject, name, kind, source, roles, created_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING id`,
    [account.subject, account.name, account.kind, account.source ?? 'local', JSON.stringify(account.roles), account.now],
  )
  const id = (made[0] as { id: number }).id
  if (account.passwordHash === undefined) return id
  await sql.run(`INSERT INTO credentials(account_id, kind, secret, created_at) VALUES (?, 'password', ?, ?)`, [
    id,
    account.passwordHash,
    account.now,
  ])
  return id
}

/** An account by name (embedded ones) or by subject, or undefined. */
export async function findAccountBy(sql: Sql, nameOrSubject: string): Promise<Account | undefined> {
  const rows = await sql.all<AccountRow>(
    `SELECT ${accountColumns} FROM accounts a WHERE a.subject = ? OR (a.name = ? AND a.source IN ('local', 'robot')) ORDER BY a.id LIMIT 1`,
    [nameOrSubject, nameOrSubject],
  )
  return rows[0] && toAccount(rows[0])
}

/** A page of the accounts by id, after `after`. With when any of their credentials was last used. */
export async function listAccounts(
  sql: Sql,
  page: { limit: number; after: number; offset: number },
): Promise<(Account & { lastUsedAt: number | null })[]> {
  const rows = await sql.all<AccountRow & { lastUsedAt: number | null }>(
    `SELECT ${accountColumns}, (SELECT max(c.last_used_at) FROM credentials c WHERE c.account_id = a.id) AS lastUsedAt
     FROM accounts a WHERE a.id > ? ORDER BY a.id LIMIT ? OFFSET ?`,
    [page.after, page.limit, page.offset],
  )
  return rows.map((row) => ({ ...toAccount(row), lastUsedAt: row.lastUsedAt }))
}

/** What an update of an account may change; roles and state count with the next request. */
export async function updateAccount(
  sql: Sql,
  id: number,
  change: { roles?: readonly string[]; disabled?: boolean },
): Promise<void> {
  await sql.run(
    `UPDATE accounts SET roles = coalesce(?, roles), disabled = coalesce(?, disabled), version = version + 1 WHERE id = ?`,
    [change.roles === undefined ? null : JSON.stringify(change.roles), change.disabled ?? null, id],
  )
}

/** Removes an account with its credentials and managed rules. What it pushed and what the journal says of it stays. */
export async function removeAccount(sql: Sql, id: number): Promise<void> {
  await sql.run(`DELETE FROM accounts WHERE id = ?`, [id])
}

/** Accounts that can still administer: enabled, with the role admin and a way to log in. */
export async function countAdmins(sql: Sql): Promise<number> {
  const [row] = await sql.all<{ n: number }>(
    `SELECT count(*) AS n FROM accounts a, json_each(a.roles) r WHERE r.value = 'admin' AND a.disabled = 0`,
  )
  return row?.n ?? 0
}

/** An account of another source, made or refreshed as that source describes it. Shape: its id. */
export async function upsertAccount(
  sql: Sql,
  account: { subject: string; name: string; kind: 'human' | 'system'; source: string; roles: readonly string[]; now: number },
): Promise<number> {
  const roles = JSON.stringify(account.roles)
  const [row] = await sql.all<{ id: number }>(
    `INSERT INTO accounts(subject, name, kind, source, roles, created_at) VALUES (?,?,?,?,?,?)
     ON CONFLICT (subject) DO UPDATE SET name = excluded.name, kind = excluded.kind, roles = excluded.roles,
       version = version + (roles <> excluded.roles)
     RETURNING id`,
    [account.subject, account.name, account.kind, account.source, roles, account.now],
  )
  return (row as { id: number }).id
}

/** Sets a password; tokens, logins and sessions made from the old one stop counting. Shape: whether there is such an account. */
export async function setPassword(sql: Sql, name: string, passwordHash: string): Promise<boolean> {
  const changed = await sql.run(`UPDATE accounts SET version = version + 1 WHERE name = ? AND source = 'local'`, [name])
  if (changed === 0) return false
  await sql.run(
    `UPDATE credentials SET secret = ?, version = version + 1
     WHERE kind = 'password' AND account_id = (SELECT id FROM accounts WHERE name = ? AND source = 'local')`,
    [passwordHash, name],
  )
  await sql.run(
    `DELETE FROM credentials WHERE kind IN ('login', 'session')
     AND account_id = (SELECT id FROM accounts WHERE name = ? AND source = 'local')`,
    [name],
  )
  return true
}

/** Whether there is any account: the first start makes one. */
export async function hasAccounts(sql: Sql): Promise<boolean> {
  return (await sql.all(`SELECT 1 AS one FROM accounts LIMIT 1`)).length > 0
}
