import { randomBytes, randomUUID } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { addAccount, hasAccounts } from '../lib/auth/accounts.ts'
import type { PasswordHasher } from '../lib/auth/passwords.ts'
import { isMetadataError } from '../lib/metadata/errors.ts'
import type { MetadataStore } from '../lib/metadata/sql.ts'
import type { Config } from './config.ts'
import { hashRandom } from './passwords.ts'
import { syncNames } from './sync-names.ts'

/** The account of a first start. */
export const firstAdmin = 'admin'

export const passwordFile = (root: string) => join(root, 'admin-password')

/** The registry's own name, made at its first start: service, issuer and audience of its tokens. */
export async function ensureInstance(store: MetadataStore, now: number): Promise<string> {
  const [row] = await store.read.all<{ name: string }>('SELECT name FROM instance WHERE id = 1')
  if (row) return row.name
  return await store.write(async (sql) => {
    await sql.run('INSERT INTO instance(id, name, created_at) VALUES (1, ?, ?) ON CONFLICT (id) DO NOTHING', [
      `mcr-${randomBytes(8).toString('hex')}`,
      now,
    ])
    const rows = await sql.all<{ name: string }>('SELECT name FROM instance WHERE id = 1')
    return (rows[0] as { name: string }).name
  })
}

/** The first admin's password: the configured one, or a random one. */
export interface FirstPassword {
  password: string
  isRandom: boolean
  hash: string
}

export async function makeFirstPassword(passwords: PasswordHasher, config: Config): Promise<FirstPassword> {
  const given = config.auth.bootstrapPassword
  const password = given ?? randomBytes(15).toString('base64url')
  return given === undefined
    ? { password, isRandom: true, hash: await hashRandom(password) }
    : { password, isRandom: false, hash: await passwords.hash(password) }
}

/**
 * Makes the account `admin` where there is no account at all; of processes that start together one does. A random password goes to a
 * 0600 file, which goes when it was first used. Shape: what was made, with the password where it is random; undefined on later starts.
 */
export async function ensureAdmin(
  store: MetadataStore,
  first: () => Promise<FirstPassword>,
  root: string,
  now: number,
): Promise<{ name: string; password?: string; file?: string } | undefined> {
  if (await hasAccounts(store.read)) return undefined
  const { password, isRandom, hash: passwordHash } = await first()
  const file = passwordFile(root)
  try {
    const made = await store.write(async (sql) => {
      if (await hasAccounts(sql)) return false
      await addAccount(sql, {
        subject: `local:${randomUUID()}`,
        name: firstAdmin,
        kind: 'human',
        roles: ['admin'],
        passwordHash,
        now,
      })
      // Durable before the commit: a start that ends in between leaves a file of no account, and not an account whose password nobody knows.
      if (isRandom) {
        writeFileSync(file, `${password}\n`, { mode: 0o600, flush: true })
        syncNames(root)
      } else forgetFirstPassword(root)
      return true
    })
    if (!made) return undefined
  } catch (error) {
    if (isMetadataError(error) && error.code === 'DB_CONSTRAINT') return undefined
    throw error
  }
  if (!isRandom) return { name: firstAdmin }
  return { name: firstAdmin, password, file }
}

/** Removes the file with the first password: it was used, or is no longer the password. */
export function forgetFirstPassword(root: string): void {
  rmSync(passwordFile(root), { force: true })
}
