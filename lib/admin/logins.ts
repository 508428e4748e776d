import type { Timestamp } from '@bufbuild/protobuf/wkt'
import { type Account, isUnchanged } from '../auth/accounts.ts'
import { addCredential, prepareSecret, removeCredential } from '../auth/credentials.ts'
import type { Exchange } from '../context.ts'
import { change } from '../journal/change.ts'
import { ociError } from '../oci/errors.ts'
import { AdminService } from './gen/mcr/v1/admin_pb.ts'
import { stamp, stampOrNone } from './input.ts'
import { type AdminContext, type Operation, operation } from './operation.ts'

const { login, logout, whoAmI } = AdminService.method

/** How long a login of the administration lasts. */
const loginMs = 12 * 3_600_000

/** Who somebody is, and how they prove it to the administration. */
export const loginOperations: readonly Operation[] = [
  operation(login, {
    summary: 'log in with name and password (and TOTP code, where the identity service wants one): a token for 12 hours',
    action: 'public',
    rest: { method: 'POST', path: '/v1/auth/login' },
    cli: { words: 'login', hidden: true },
    signs: true,
    async run(input, { exchange }, ctx) {
      const { account, kind, narrowing } = await ctx.logins.login(
        input.username,
        input.password,
        exchange,
        input.totpCode || undefined,
      )
      exchange.principal = account.subject
      // A login is the whole account: what is limited must not become one.
      if (kind === 'personal' || kind === 'robot' || narrowing)
        throw ociError('DENIED', undefined, { message: 'a token is no password here: send it as it is, as Bearer' })
      return await addLogin(ctx, exchange, account)
    },
  }),
  operation(logout, {
    summary: 'end the login or session that asks',
    action: 'authenticated',
    rest: { method: 'POST', path: '/v1/auth/logout', status: 204 },
    cli: { words: 'logout', hidden: true },
    async run(_input, call, ctx) {
      const { credential } = call.caller
      if (credential?.kind === 'login' || credential?.kind === 'session')
        await change(ctx, call, async (sql, append) => {
          await removeCredential(sql, credential.id)
          append({
            type: 'credential_revoked',
            detail: { subject: call.principal.subject, id: credential.id, kind: credential.kind },
          })
        })
      return {}
    },
  }),
  operation(whoAmI, {
    summary: 'who you are to the registry',
    action: 'authenticated',
    rest: { method: 'GET', path: '/v1/auth/whoami' },
    cli: { words: 'whoami' },
    async run(_input, { caller }) {
      const { subject, name, kind, roles } = caller.principal
      return {
        subject,
        name,
        accountType: kind,
        roles: [...roles],
        credential: caller.credential?.kind ?? '',
        expiresAt: stampOrNone(caller.credential?.expiresAt),
      }
    },
  }),
]

/** A login of the administration for an account that has just proved itself. Shape: its token, shown once, and its end. */
export async function addLogin(
  ctx: AdminContext,
  exchange: Exchange,
  account: Account,
): Promise<{ token: string; expiresAt: Timestamp }> {
  const { secret, hash } = await prepareSecret('login')
  const now = ctx.now()
  await change(ctx, { principal: account, exchange }, async (sql, append) => {
    if (!(await isUnchanged(sql, account)))
      throw ociError('UNAUTHORIZED', undefined, { message: 'the account was changed just now: log in again' })
    await sql.run(`DELETE FROM credentials WHERE account_id = ? AND kind IN ('login', 'session') AND expires_at < ?`, [
      account.id,
      now,
    ])
    const id = await addCredential(sql, {
      accountId: account.id,
      kind: 'login',
      name: 'login',
      hash,
      expiresAt: now + loginMs,
      now,
    })
    append({ type: 'credential_added', detail: { subject: account.subject, id, kind: 'login' } })
  })
  return { token: secret, expiresAt: stamp(now + loginMs) }
}
