import { change } from '../journal/change.ts'
import { addRule, allRules, findRule, formatRule, listRules, removeRule, type StoredRule, setRule } from '../metadata/rules.ts'
import type { Sql } from '../metadata/sql.ts'
import { ociError } from '../oci/errors.ts'
import { beyond, holdingsOf } from '../policy/holdings.ts'
import type { Rule } from '../policy/rule.ts'
import { checkRule } from '../policy/rule-input.ts'
import { PolicyService } from './gen/mcr/v1/policy_pb.ts'
import { cutPage, invalid, parseAdminPage, parseNumberAfter } from './input.ts'
import { keepsAdmin } from './keeps-admin.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'
import { merge, toInput, toMessage } from './rule-message.ts'

const { listRules: list, getRule, createRule, updateRule, deleteRule, applyRules } = PolicyService.method

const columns = [
  'id',
  'priority',
  'effect',
  'actions',
  'repositories',
  'roles',
  'subject_uuid',
  'enabled',
  'description',
] as const

/** Rules, one by one and as a whole. */
export const policyOperations: readonly Operation[] = [
  operation(list, {
    summary: 'list the rules',
    action: 'policy:manage',
    rest: { method: 'GET', path: '/v1/policy/rules' },
    cli: { words: 'policy list', columns },
    async run(input, _call, ctx) {
      const { limit, after, offset } = parseAdminPage(input)
      const found = await listRules(ctx.metadata.read, { limit: limit + 1, after: parseNumberAfter(after, 0), offset })
      const { rows, next } = cutPage(found, limit, (row) => row.rule.id)
      const builtIn = input.builtIn && after === '' ? ctx.rules.builtIn.map((rule) => toMessage({ rule })) : []
      return { rules: [...builtIn, ...rows.map(toMessage)], next }
    },
  }),
  operation(getRule, {
    summary: 'one rule',
    action: 'policy:manage',
    rest: { method: 'GET', path: '/v1/policy/rules/:id' },
    cli: { words: 'policy show', args: ['id'] },
    async run({ id }, _call, ctx) {
      const builtIn = ctx.rules.builtIn.find((rule) => rule.id === Number(id))
      return { rule: toMessage(builtIn ? { rule: builtIn } : await mustFind(ctx.metadata.read, Number(id))) }
    },
  }),
  operation(createRule, {
    summary: 'add a rule',
    action: 'policy:manage',
    rest: { method: 'POST', path: '/v1/policy/rules', status: 201 },
    cli: { words: 'policy create' },
    async run(input, call, ctx) {
      const rule = checkRule(toInput({ ...input, priority: input.priority || 100 }))
      const stored = await change(ctx, call, async (sql, append) => {
        const enabled = input.enabled ?? true
        const id = await guarded(sql, call, ctx, async (see) => {
          see({ after: { rule, enabled } })
          return await addRule(sql, rule, enabled, ctx.now())
        })
        append({ type: 'rule_created', detail: { id, rule: JSON.parse(formatRule(rule)), priority: rule.priority } })
        return await mustFind(sql, id)
      })
      return { rule: toMessage(stored) }
    },
  }),
  operation(updateRule, {
    summary: 'change a rule; what is not given stays',
    action: 'policy:manage',
    rest: { method: 'PATCH', path: '/v1/policy/rules/:id' },
    cli: { words: 'policy update', args: ['id'] },
    async run(input, call, ctx) {
      const stored = await change(ctx, call, async (sql, append) => {
        const before = await mustFindOwn(sql, Number(input.id))
        const rule = checkRule(merge(before.rule, input))
        const enabled = input.enabled ?? before.enabled
        await guarded(sql, call, ctx, async (see) => {
          see({ before, after: { rule, enabled } })
          await setRule(sql, before.rule.id, rule, enabled, ctx.now())
        })
        const detail = {
          id: before.rule.id,
          before: JSON.parse(formatRule(before.rule)),
          after: JSON.parse(formatRule(rule)),
          enabled,
        }
        append({ type: 'rule_updated', detail })
        return await mustFind(sql, before.rule.id)
      })
      return { rule: toMessage(stored) }
    },
  }),
  operation(deleteRule, {
    summary: 'delete a rule',
    action: 'policy:manage',
    rest: { method: 'DELETE', path: '/v1/policy/rules/:id', status: 204 },
    cli: { words: 'policy delete', args: ['id'] },
    async run({ id }, call, ctx) {
      await change(ctx, call, async (sql, append) => {
        const before = await mustFindOwn(sql, Number(id))
        await guarded(sql, call, ctx, async (see) => {
          see({ before })
          await removeRule(sql, before.rule.id)
        })
        append({ type: 'rule_deleted', detail: { id: before.rule.id, rule: JSON.parse(formatRule(before.rule)) } })
      })
      return {}
    },
  }),
  operation(applyRules, {
    summary: 'make the rules what a list says; what differs is answered first',
    action: 'policy:manage',
    rest: { method: 'PUT', path: '/v1/policy/rules' },
    cli: { words: 'policy apply', hidden: true },
    async run(input, call, ctx) {
      if (input.rules.length > 2000) throw invalid('rules', 'at most 2000')
      const wanted = input.rules.map((message, index) => {
        try {
          return { rule: checkRule(toInput({ ...message, priority: message.priority || 100 })), enabled: message.enabled ?? true }
        } catch (error) {
          throw ociError('INVALID', undefined, {
            message: `rule ${index + 1} (${message.description || 'no description'}): ${(error as Error).message}`,
          })
        }
      })
      const compare = async (sql: Sql) =>
        difference(
          (await allRules(sql)).filter((rule) => rule.managedBy === null),
          wanted,
        )
      const answer = ({ changes, unchanged }: Difference) => ({
        changes: changes.map(({ before, after }) => ({
          change: before ? (after ? 'updated' : 'deleted') : 'created',
          before: before && toMessage(before),
          after: after && toMessage({ ...before, ...after, rule: { ...after.rule, id: before?.rule.id ?? 0 } }),
        })),
        unchanged,
        dryRun: input.dryRun,
      })
      if (input.dryRun) return answer(await compare(ctx.metadata.read))
      return await change(ctx, call, async (sql, append) => {
        const found = await compare(sql)
        await guarded(sql, call, ctx, async (see) => {
          for (const { before, after } of found.changes) {
            see({ before, after })
            if (before && after) await setRule(sql, before.rule.id, after.rule, after.enabled, ctx.now())
            else if (before) await removeRule(sql, before.rule.id)
            else if (after) await addRule(sql, after.rule, after.enabled, ctx.now())
          }
        })
        if (found.changes.length > 0)
          append({
            type: 'rules_applied',
            detail: {
              changes: found.changes.map(({ before, after }) => ({
                id: before?.rule.id,
                before: before && JSON.parse(formatRule(before.rule)),
                after: after && JSON.parse(formatRule(after.rule)),
              })),
            },
          })
        return answer(found)
      })
    },
  }),
]

interface WantedRule {
  rule: Omit<Rule, 'id'>
  enabled: boolean
}
interface Difference {
  changes: { before?: StoredRule; after?: WantedRule }[]
  unchanged: number
}

/** What would change: equal rules stay, one with the same description is the same rule changed, the rest comes and goes. */
function difference(current: readonly StoredRule[], wanted: readonly WantedRule[]): Difference {
  const key = ({ rule, enabled }: WantedRule) => `${rule.priority} ${enabled} ${rule.description}\n${formatRule(rule)}`
  const left = [...current]
  const take = (fits: (rule: StoredRule) => boolean) => {
    const at = left.findIndex(fits)
    return at < 0 ? undefined : left.splice(at, 1)[0]
  }
  const fresh = wanted.filter((rule) => take((stored) => key(stored) === key(rule)) === undefined)
  const changes = fresh.map((after) => ({
    before: after.rule.description === '' ? undefined : take((stored) => stored.rule.description === after.rule.description),
    after,
  }))
  return { changes: [...changes, ...left.map((before) => ({ before }))], unchanged: wanted.length - fresh.length }
}

/**
 * P6: nobody allows what they do not hold (by the rules as they were: one that grants itself is no ground), only admins take a deny away,
 * and an admin who can still change the rules remains. Runs `work` between the two looks. Errors: DENIED, CONFLICT.
 */
async function guarded<T>(
  sql: Sql,
  call: OperationCall,
  ctx: AdminContext,
  work: (see: (change: { before?: WantedRule; after?: WantedRule }) => void) => Promise<T>,
): Promise<T> {
  const enabled = (await allRules(sql)).filter((stored) => stored.enabled).map(({ rule }) => rule)
  const holds = holdingsOf([...ctx.rules.builtIn, ...enabled], call.principal, ctx.now())
  const value = await work(({ before, after }) => {
    if (call.principal.roles.includes('admin')) return
    if (before?.enabled && before.rule.effect === 'deny')
      throw ociError('DENIED', undefined, { message: 'only an admin changes or takes away a rule that denies' })
    const missing = after && beyond(after.rule, holds)
    if (missing !== undefined) throw ociError('DENIED', undefined, { message: `nobody grants what they do not hold: ${missing}` })
  })
  await keepsAdmin(sql, ctx)
  return value
}

async function mustFind(sql: Sql, id: number): Promise<StoredRule> {
  const found = await findRule(sql, id)
  if (!found) throw ociError('NOT_FOUND', { id }, { message: `there is no rule ${id}` })
  return found
}

async function mustFindOwn(sql: Sql, id: number): Promise<StoredRule> {
  if (id < 0) throw ociError('CONFLICT', { id }, { message: 'built-in rules stay as they are' })
  const found = await mustFind(sql, id)
  if (found.managedBy !== null)
    throw ociError('CONFLICT', { id }, { message: `the rule belongs to the robot ${found.managedBy} and changes with it` })
  return found
}
