import type { Base, Ports } from '../context.ts'
import type { Sql } from '../metadata/sql.ts'
import { type CompiledRules, compileRules, evaluate } from './evaluate.ts'
import { parseRule, type Rule } from './rule.ts'

/** What refuses where the account may and its credential may not. */
const narrowed = {
  id: 0,
  description: 'the credential is limited',
  message: 'this token is limited to less than its account may do',
}

/**
 * The decision point: built-in rules and those of the database, evaluated at every request against the principal as it is now. The
 * compiled rules are remembered while the database has not changed, so a new rule counts for the next request in every process.
 */
export function createDecide(
  ctx: Pick<Base, 'now' | 'remember'> & Pick<Ports, 'metadata'>,
  builtIn: readonly Rule[],
): Base['decide'] {
  let last: { text: string; rules: CompiledRules } | undefined

  async function load(sql: Sql): Promise<CompiledRules> {
    const rows = await sql.all<{ id: number; priority: number; description: string; rule: string }>(
      `SELECT id, priority, description, rule FROM policy_rules WHERE enabled = 1 ORDER BY priority, id`,
    )
    // Compiling costs more than reading; most commits change no rule.
    const text = JSON.stringify(rows)
    if (last?.text !== text) last = { text, rules: compileRules([...builtIn, ...rows.map(parseRule)]) }
    return last.rules
  }

  return async (caller, exchange, action, resource, sql) => {
    const { subject, kind, roles } = caller.principal
    const rules = sql ? await load(sql) : await ctx.remember('policy rules', () => load(ctx.metadata.read))
    const decision = evaluate(rules, {
      subject,
      kind,
      roles,
      action,
      repository: resource?.repository,
      tag: resource?.tag,
      address: exchange.address,
      now: ctx.now(),
    })
    if (!decision.allow || caller.narrowing === undefined || caller.narrowing(action, resource?.repository)) return decision
    return { allow: false, rule: narrowed, expiresAt: decision.expiresAt }
  }
}
