import type { MessageInitShape } from '@bufbuild/protobuf'
import { isUnchanged } from '../auth/accounts.ts'
import {
  addCredential,
  type CredentialScope,
  findCredential,
  findListed,
  type ListedCredential,
  listCredentials,
  prepareSecret,
  removeCredential,
} from '../auth/credentials.ts'
import { change } from '../journal/change.ts'
import type { Sql } from '../metadata/sql.ts'
import { ociError } from '../oci/errors.ts'
import { type Action, actions as allActions } from '../policy/actions.ts'
import { compileGlob } from '../policy/glob.ts'
import { mustFindBelow } from './accounts.ts'
import { AdminService, type TokenSchema } from './gen/mcr/v1/admin_pb.ts'
import { invalid, parseDuration, parseWords, stamp, stampOrNone } from './input.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'

const { listTokens, createToken, revokeToken } = AdminService.method

export const dayMs = 24 * 3_600_000
const lifeMost = 366 * dayMs
const tokensMost = 200

/** Personal tokens, which narrow their owner; and the list of all that proves an account. */
export const tokenOperations: readonly Operation[] = [
  operation(listTokens, {
    summary: 'list tokens, logins and sessions: your own, or those of an account you manage',
    action: 'authenticated',
    rest: { method: 'GET', path: '/v1/tokens' },
    cli: {
      words: 'token list',
      columns: ['id', 'name', 'kind', 'account', 'actions', 'repositories', 'expires_at', 'last_used_at'],
    },
    async run(input, call, ctx) {
      const accountId =
        input.account === '' ? call.principal.id : (await othersAccount(ctx.metadata.read, input.account, call, ctx)).id
      return { tokens: (await listCredentials(ctx.metadata.read, accountId, ctx.now())).map(tokenMessage) }
    },
  }),
  operation(createToken, {
    summary: 'make a personal token: a password for clients that can be limited and revoked',
    action: 'authenticated',
    rest: { method: 'POST', path: '/v1/tokens', status: 201 },
    cli: { words: 'token create', args: ['name'] },
    async run(input, call, ctx) {
      if (call.principal.id === 0) throw invalid('account', 'tokens are made by who logged in: use mcr login, or make a robot')
      if (call.caller.credential?.kind === 'personal' || call.caller.credential?.kind === 'robot')
        throw ociError('DENIED', undefined, { message: 'a token does not make tokens: log in' })
      const scope = parseScope(input)
      const name = parseName(input.name)
      const { secret, hash } = await prepareSecret('personal')
      const expiresAt = ctx.now() + parseLife(input.expiresIn, 90 * dayMs)
      const listed = await change(ctx, call, async (sql, append) => {
        const { id: accountId, subject } = call.principal
        // What proved the caller may have been revoked since, and a new token would outlive it.
        if (!(await isUnchanged(sql, call.principal)) || !(await findCredential(sql, call.caller.credential?.id ?? 0)))
          throw ociError('UNAUTHORIZED', undefined, { message: 'the account was changed just now: log in again' })
        if ((await listCredentials(sql, accountId, ctx.now())).length >= tokensMost)
          throw ociError('CONFLICT', undefined, { message: `an account has at most ${tokensMost} tokens: revoke some` })
        const id = await addCredential(sql, { accountId, kind: 'personal', name, hash, scope, expiresAt, now: ctx.now() })
        append({ type: 'credential_added', detail: { subject, id, kind: 'personal', name } })
        return (await findListed(sql, id)) as ListedCredential
      })
      return { token: tokenMessage(listed), secret }
    },
  }),
  operation(revokeToken, {
    summary: 'revoke a token, login or session; the next request with it is refused',
    action: 'authenticated',
    rest: { method: 'DELETE', path: '/v1/tokens/:id', status: 204 },
    cli: { words: 'token revoke', args: ['id'] },
    async run(input, call, ctx) {
      await change(ctx, call, async (sql, append) => {
        const found = await findListed(sql, Number(input.id))
        const missing = ociError('NOT_FOUND', undefined, { message: `there is no token ${input.id}` })
        if (!found) throw missing
        if (found.accountId !== call.principal.id) {
          // Another's token answers as none, to who may not manage accounts.
          if (!(await call.decide('account:manage', undefined, sql)).allow) throw missing
          await mustFindBelow(sql, await subjectOf(sql, found.accountId), call)
        }
        await removeCredential(sql, found.id)
        const subject = await subjectOf(sql, found.accountId)
        append({ type: 'credential_revoked', detail: { subject, id: found.id, kind: found.kind, name: found.name } })
      })
      return {}
    },
  }),
]

function parseScope(input: { actions: string[]; repositories: string[] }): CredentialScope {
  if (input.actions.length > 64 || input.repositories.length > 100)
    throw invalid('repositories', 'at most 100, and at most 64 actions')
  for (const action of input.actions)
    if (!(allActions as readonly string[]).includes(action)) throw invalid('actions', `of ${allActions.join(', ')}`)
  for (const glob of input.repositories)
    try {
      if (glob === '' || glob.length > 300) throw new Error('globs of 1 to 300 characters')
      compileGlob(glob)
    } catch (error) {
      throw invalid('repositories', (error as Error).message)
    }
  return { actions: input.actions as Action[], repositories: input.repositories }
}

/** How long a secret lives, in ms. Errors: INVALID. */
export function parseLife(text: string, byDefault: number): number {
  const life = text === '' ? byDefault : parseDuration('expires_in', text)
  if (life < 60_000 || life > lifeMost) throw invalid('expires_in', 'from 1m to 366d')
  return life
}

function parseName(text: string): string {
  if (text.trim() === '') throw invalid('name', 'what the token is for')
  return parseWords('name', text.trim(), 100)
}

async function othersAccount(sql: Sql, nameOrSubject: string, call: OperationCall, ctx: AdminContext) {
  const { principal } = call
  if (nameOrSubject === principal.name || nameOrSubject === principal.subject) return principal
  if (!(await ctx.decide(call.caller, call.exchange, 'account:manage')).allow)
    throw ociError('DENIED', undefined, { message: "another's tokens are for who manages accounts" })
  return await mustFindBelow(sql, nameOrSubject, call)
}

async function subjectOf(sql: Sql, accountId: number): Promise<string> {
  const [row] = await sql.all<{ subject: string }>(`SELECT subject FROM accounts WHERE id = ?`, [accountId])
  return row?.subject ?? ''
}

function tokenMessage(row: ListedCredential): MessageInitShape<typeof TokenSchema> {
  const scope = row.scope === null ? undefined : (JSON.parse(row.scope) as CredentialScope)
  return {
    id: BigInt(row.id),
    name: row.name,
    kind: row.kind,
    account: row.account,
    actions: [...(scope?.actions ?? [])],
    repositories: [...(scope?.repositories ?? [])],
    createdAt: stamp(row.createdAt),
    expiresAt: stampOrNone(row.expiresAt),
    lastUsedAt: stampOrNone(row.lastUsedAt),
  }
}
