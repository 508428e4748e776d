import { type AccountRow, accountColumns, toAccount } from '../auth/accounts.ts'
import { allRules } from '../metadata/rules.ts'
import type { Sql } from '../metadata/sql.ts'
import { ociError } from '../oci/errors.ts'
import { compileRules, evaluate } from '../policy/evaluate.ts'
import type { AdminContext } from './operation.ts'

/**
 * P6, after a change and inside its transaction: at least one enabled account with the role admin may still change the rules.
 * Errors: CONFLICT.
 */
export async function keepsAdmin(sql: Sql, ctx: Pick<AdminContext, 'rules' | 'now'>): Promise<void> {
  const stored = await allRules(sql)
  const rules = compileRules([...ctx.rules.builtIn, ...stored.filter(({ enabled }) => enabled).map(({ rule }) => rule)])
  const admins = await sql.all<AccountRow>(
    `SELECT ${accountColumns} FROM accounts a WHERE a.disabled = 0 AND EXISTS (SELECT 1 FROM json_each(a.roles) WHERE value = 'admin') ORDER BY a.id`,
  )
  const may = admins
    .map(toAccount)
    .some(({ subject, kind, roles }) => evaluate(rules, { subject, kind, roles, action: 'policy:manage', now: ctx.now() }).allow)
  if (!may) throw ociError('CONFLICT', undefined, { message: 'no admin could change the rules any more: it stays as it is' })
}
