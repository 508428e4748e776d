import { updateAccount } from '../auth/accounts.ts'
import { change } from '../journal/change.ts'
import { ociError } from '../oci/errors.ts'
import { checkRoles, mayGive, mustFind, mustFindBelow, toMessage } from './accounts.ts'
import { AdminService } from './gen/mcr/v1/admin_pb.ts'
import { keepsAdmin } from './keeps-admin.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'

const { listRoles, grantRole, revokeRole } = AdminService.method

/** Roles of accounts; they count with the next request. */
export const roleOperations: readonly Operation[] = [
  operation(listRoles, {
    summary: 'roles that accounts hold or rules name',
    action: 'account:manage',
    rest: { method: 'GET', path: '/v1/roles' },
    cli: { words: 'role list', columns: ['name', 'accounts', 'rules'] },
    async run(_input, _call, ctx) {
      const rows = await ctx.metadata.read.all<{ name: string; accounts: number; rules: number }>(
        `SELECT name, sum(accounts) AS accounts, sum(rules) AS rules FROM (
           SELECT r.value AS name, 1 AS accounts, 0 AS rules FROM accounts a, json_each(a.roles) r
           UNION ALL SELECT r.value, 0, 1 FROM policy_rules p, json_each(p.rule, '$.roles') r
           UNION ALL SELECT 'admin', 0, 1 UNION ALL SELECT 'user', 0, 1)
         GROUP BY name ORDER BY name LIMIT 1000`,
      )
      return { roles: rows.map(({ name, accounts, rules }) => ({ name, accounts: BigInt(accounts), rules: BigInt(rules) })) }
    },
  }),
  operation(grantRole, {
    summary: 'give an account a role',
    action: 'account:manage',
    rest: { method: 'PUT', path: '/v1/accounts/:account/roles/:role' },
    cli: { words: 'role grant', args: ['account', 'role'] },
    run: async ({ account, role }, call, ctx) => ({ account: await setRole(account, role, true, call, ctx) }),
  }),
  operation(revokeRole, {
    summary: 'take a role from an account',
    action: 'account:manage',
    rest: { method: 'DELETE', path: '/v1/accounts/:account/roles/:role' },
    cli: { words: 'role revoke', args: ['account', 'role'] },
    run: async ({ account, role }, call, ctx) => ({ account: await setRole(account, role, false, call, ctx) }),
  }),
]

async function setRole(nameOrSubject: string, text: string, wanted: boolean, call: OperationCall, ctx: AdminContext) {
  const [role] = checkRoles([text]) as [string]
  mayGive(call, [role])
  return await change(ctx, call, async (sql, append) => {
    const before = await mustFindBelow(sql, nameOrSubject, call)
    if (before.source === 'mcias' || before.source === 'oidc')
      throw ociError('CONFLICT', undefined, { message: `roles of this account come from ${before.source}` })
    const roles = before.roles.filter((own) => own !== role)
    if (before.roles.includes(role) !== wanted) {
      await updateAccount(sql, before.id, { roles: wanted ? [...roles, role] : roles })
      append({ type: wanted ? 'role_granted' : 'role_revoked', detail: { subject: before.subject, role } })
    }
    await keepsAdmin(sql, ctx)
    return toMessage(await mustFind(sql, before.subject))
  })
}
