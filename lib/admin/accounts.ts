import type { MessageInitShape } from '@bufbuild/protobuf'
import {
  type Account,
  addAccount,
  findAccountBy,
  listAccounts,
  parseAccountName,
  parseRole,
  removeAccount,
  setPassword,
  updateAccount,
} from '../auth/accounts.ts'
import { change } from '../journal/change.ts'
import { isMetadataError } from '../metadata/errors.ts'
import type { Sql } from '../metadata/sql.ts'
import { ociError } from '../oci/errors.ts'
import { type AccountSchema, AdminService } from './gen/mcr/v1/admin_pb.ts'
import { cutPage, invalid, parseAdminPage, parseNumberAfter, stamp, stampOrNone } from './input.ts'
import { keepsAdmin } from './keeps-admin.ts'
import { type Operation, type OperationCall, operation } from './operation.ts'

const { listAccounts: list, getAccount, createAccount, updateAccount: update, deleteAccount } = AdminService.method
const columns = ['name', 'account_type', 'roles', 'source', 'disabled', 'last_used_at', 'subject'] as const

/** Accounts: who there is, and what proves them by password. */
export const accountOperations: readonly Operation[] = [
  operation(list, {
    summary: 'list accounts',
    action: 'account:manage',
    rest: { method: 'GET', path: '/v1/accounts' },
    cli: { words: 'account list', columns },
    async run(input, _call, ctx) {
      const { limit, after, offset } = parseAdminPage(input)
      const found = await listAccounts(ctx.metadata.read, { limit: limit + 1, after: parseNumberAfter(after, 0), offset })
      const { rows, next } = cutPage(found, limit, (row) => row.id)
      return { accounts: rows.map((row) => toMessage(row, row.lastUsedAt)), next }
    },
  }),
  operation(createAccount, {
    summary: 'add an account; without a password the answer has a random one',
    action: 'account:manage',
    rest: { method: 'POST', path: '/v1/accounts', status: 201 },
    cli: { words: 'account create', args: ['name'] },
    async run(input, call, ctx) {
      const name = checked('name', () => parseAccountName(input.name))
      const kind = input.accountType || 'human'
      if (kind !== 'human' && kind !== 'system') throw invalid('account_type', 'human or system')
      const roles = checkRoles(input.roles.length > 0 || kind === 'system' ? input.roles : ['user'])
      mayGive(call, roles)
      const { password, made } = newPassword(input.password)
      const passwordHash = await ctx.passwords.hash(password)
      const subject = `local:${ctx.newId()}`
      try {
        await change(ctx, call, async (sql, append) => {
          await addAccount(sql, { subject, name, kind, roles, passwordHash, now: ctx.now() })
          append({ type: 'account_added', detail: { subject, name, roles } })
        })
      } catch (error) {
        if (isMetadataError(error) && error.code === 'DB_CONSTRAINT')
          throw ociError('CONFLICT', { name }, { message: `account ${name} exists already` })
        throw error
      }
      return { account: toMessage(await mustFind(ctx.metadata.read, subject)), password: made ? password : '' }
    },
  }),
  operation(getAccount, {
    summary: 'one account',
    action: 'account:manage',
    rest: { method: 'GET', path: '/v1/accounts/:account' },
    cli: { words: 'account show', args: ['account'] },
    async run({ account }, _call, ctx) {
      return { account: toMessage(await mustFind(ctx.metadata.read, account)) }
    },
  }),
  operation(update, {
    summary: 'disable, enable or set the password of an account; counts with the next request',
    action: 'account:manage',
    rest: { method: 'PATCH', path: '/v1/accounts/:account' },
    cli: { words: 'account update', args: ['account'] },
    async run(input, call, ctx) {
      const wanted = input.generatePassword
        ? newPassword('')
        : input.password === undefined
          ? undefined
          : newPassword(input.password)
      const passwordHash = wanted && (await ctx.passwords.hash(wanted.password))
      const account = await change(ctx, call, async (sql, append) => {
        const before = await mustFindBelow(sql, input.account, call)
        const { subject } = before
        if (input.disabled !== undefined) {
          await updateAccount(sql, before.id, { disabled: input.disabled })
          append({ type: 'account_changed', detail: { subject, what: input.disabled ? 'disabled' : 'enabled' } })
        }
        if (passwordHash !== undefined) {
          if (before.source !== 'local') throw invalid('password', `none: this account is known by ${before.source}`)
          await setPassword(sql, before.name, passwordHash)
          append({ type: 'account_changed', detail: { subject, what: 'password' } })
        }
        await keepsAdmin(sql, ctx)
        return await mustFind(sql, subject)
      })
      return { account: toMessage(account), password: wanted?.made ? wanted.password : '' }
    },
  }),
  operation(deleteAccount, {
    summary: 'delete an account with its tokens; what it did stays in the journal',
    action: 'account:manage',
    rest: { method: 'DELETE', path: '/v1/accounts/:account', status: 204 },
    cli: { words: 'account delete', args: ['account'] },
    async run(input, call, ctx) {
      await change(ctx, call, async (sql, append) => {
        const { id, subject, name } = await mustFindBelow(sql, input.account, call)
        await removeAccount(sql, id)
        await keepsAdmin(sql, ctx)
        append({ type: 'account_deleted', detail: { subject, name } })
      })
      return {}
    },
  }),
]

const passwordLeast = 8

/** The password given, or a random one. Errors: INVALID. */
function newPassword(given: string): { password: string; made: boolean } {
  if (given === '') {
    const bytes = crypto.getRandomValues(new Uint8Array(18))
    return {
      password: btoa(String.fromCharCode(...bytes))
        .replaceAll('+', '-')
        .replaceAll('/', '_'),
      made: true,
    }
  }
  if ([...given].length < passwordLeast || new TextEncoder().encode(given).length > 1024)
    throw invalid('password', `${passwordLeast} characters at least, 1024 bytes at most`)
  return { password: given, made: false }
}

function checked<T>(field: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    throw invalid(field, (error as Error).message)
  }
}

/** Errors: INVALID. */
export function checkRoles(roles: readonly string[]): string[] {
  if (roles.length > 32) throw invalid('roles', 'at most 32')
  return [...new Set(roles.map((role) => checked('roles', () => parseRole(role))))]
}

/** P6: nobody gives roles they do not hold. Errors: DENIED. */
export function mayGive(call: OperationCall, roles: readonly string[]): void {
  const { roles: own } = call.principal
  if (own.includes('admin')) return
  const missing = roles.find((role) => !own.includes(role))
  if (missing !== undefined) throw ociError('DENIED', undefined, { message: `nobody gives a role they do not hold: ${missing}` })
}

export async function mustFind(sql: Sql, nameOrSubject: string): Promise<Account> {
  const found = await findAccountBy(sql, nameOrSubject)
  if (!found) throw ociError('NOT_FOUND', undefined, { message: `there is no account ${nameOrSubject.slice(0, 128)}` })
  return found
}

/** An account that the caller may change: one with no role the caller does not hold, or its password would be a way up. */
export async function mustFindBelow(sql: Sql, nameOrSubject: string, call: OperationCall): Promise<Account> {
  const found = await mustFind(sql, nameOrSubject)
  mayGive(call, found.roles)
  return found
}

export function toMessage(account: Account, lastUsedAt?: number | null): MessageInitShape<typeof AccountSchema> {
  return {
    name: account.name,
    subject: account.subject,
    accountType: account.kind,
    source: account.source,
    roles: [...account.roles],
    disabled: account.disabled,
    createdAt: stamp(account.createdAt),
    lastUsedAt: stampOrNone(lastUsedAt),
  }
}
