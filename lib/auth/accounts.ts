import type { Sql } from '../metadata/sql.ts'
import type { Principal, PrincipalKind } from './principal.ts'

export interface Account extends Principal {
  readonly disabled: boolean
  readonly createdAt: number
}

const columns = `a.id, a.subject, a.name, a.kind, a.roles, a.version, a.disabled, a.created_at AS createdAt`
interface AccountRow {
  id: number
  subject: string
  name: string
  kind: PrincipalKind
  roles: string
  version: number
  disabled: number
  createdAt: number
}
const toAccount = (row: AccountRow): Account => ({
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
  const rows = await sql.all<AccountRow>(`SELECT ${columns} FROM accounts a WHERE a.id = ?`, [id])
  return rows[0] && toAccount(rows[0])
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
    `SELECT ${columns}, c.id AS credentialId, c.version AS credentialVersion, c.secret AS hash
     FROM accounts a JOIN credentials c ON c.account_id = a.id AND c.kind = 'password' WHERE a.name = ? AND a.source = 'local'`,
    [name],
  )
  const row = rows[0]
  if (!row) return undefined
  const { credentialId, credentialVersion, hash, ...account } = row
  return { account: toAccount(account), credentialId, credentialVersion, hash }
}

/** The account behind a credential as it stands now, with the credential's version; undefined when it is gone. */
export async function findCredential(
  sql: Sql,
  id: number,
): Promise<{ account: Account; version: number; expiresAt: number | null } | undefined> {
  const rows = await sql.all<AccountRow & { credentialVersion: number; expiresAt: number | null }>(
    `SELECT ${columns}, c.version AS credentialVersion, c.expires_at AS expiresAt
     FROM credentials c JOIN accounts a ON a.id = c.account_id WHERE c.id = ?`,
    [id],
  )
  const row = rows[0]
  if (!row) return undefined
  const { credentialVersion, expiresAt, ...account } = row
  return { account: toAccount(account), version: credentialVersion, expiresAt }
}

/** Adds an embedded account with a password. Errors: a constraint failure where the name is taken. Shape: its id. */
export async function addAccount(
  sql: Sql,
  account: {
    subject: string
    name: string
    kind: 'human' | 'system'
    roles: readonly string[]
    passwordHash: string
    now: number
  },
): Promise<number> {
  const made = await sql.all<{ id: number }>(
    `INSERT INTO accounts(subject, name, kind, roles, created_at) VALUES (?, ?, ?, ?, ?) RETURNING id`,
    [account.subject, account.name, account.kind, JSON.stringify(account.roles), account.now],
  )
  const id = (made[0] as { id: number }).id
  await sql.run(`INSERT INTO credentials(account_id, kind, secret, created_at) VALUES (?, 'password', ?, ?)`, [
    id,
    account.passwordHash,
    account.now,
  ])
  return id
}

/** Every account, by name. */
export async function listAccounts(sql: Sql): Promise<(Account & { source: string })[]> {
  const rows = await sql.all<AccountRow & { source: string }>(`SELECT ${columns}, a.source FROM accounts a ORDER BY a.name, a.id`)
  return rows.map((row) => ({ ...toAccount(row), source: row.source }))
}

/** Sets a password; every token made from the old one stops counting. Shape: whether there is such an account. */
export async function setPassword(sql: Sql, name: string, passwordHash: string): Promise<boolean> {
  const changed = await sql.run(`UPDATE accounts SET version = version + 1 WHERE name = ? AND source = 'local'`, [name])
  if (changed === 0) return false
  await sql.run(
    `UPDATE credentials SET secret = ?, version = version + 1
     WHERE kind = 'password' AND account_id = (SELECT id FROM accounts WHERE name = ? AND source = 'local')`,
    [passwordHash, name],
  )
  return true
}

/** Whether there is any account: the first start makes one. */
export async function hasAccounts(sql: Sql): Promise<boolean> {
  return (await sql.all(`SELECT 1 AS one FROM accounts LIMIT 1`)).length > 0
}
