import ipaddr from 'ipaddr.js'
import { findAccountBy } from '../auth/accounts.ts'
import { anonymous, type Principal, type PrincipalKind } from '../auth/principal.ts'
import { allRules } from '../metadata/rules.ts'
import { ociError } from '../oci/errors.ts'
import { type Action, actions } from '../policy/actions.ts'
import { compileRules, evaluate } from '../policy/evaluate.ts'
import type { Rule } from '../policy/rule.ts'
import { checkRule } from '../policy/rule-input.ts'
import { PolicyService } from './gen/mcr/v1/policy_pb.ts'
import { invalid, timeOf } from './input.ts'
import { type AdminContext, type Operation, operation } from './operation.ts'
import { toInput, toMessage } from './rule-message.ts'

const { testPolicy, replayPolicy } = PolicyService.method
const hourMs = 3_600_000
const flipsMost = 1000

/** What the rules say, and what other rules would have said. */
export const policyQuestions: readonly Operation[] = [
  operation(testPolicy, {
    summary: 'may somebody do something, and which rule says so',
    action: 'policy:manage',
    rest: { method: 'POST', path: '/v1/policy/test' },
    cli: { words: 'policy test', args: ['account', 'action', 'repository'] },
    async run(input, _call, ctx) {
      const who = await whoOf(input, ctx)
      const action = actionOf(input.action)
      if (input.address !== '' && !ipaddr.isValid(input.address)) throw invalid('address', 'an IP address')
      const stored = await allRules(ctx.metadata.read)
      const all = [...ctx.rules.builtIn.map((rule) => ({ rule })), ...stored.filter(({ enabled }) => enabled)]
      const decision = evaluate(compileRules(all.map(({ rule }) => rule)), {
        ...who,
        action,
        repository: input.repository || undefined,
        tag: input.tag || undefined,
        address: input.address || undefined,
        now: ctx.now(),
      })
      const by = decision.rule && all.find(({ rule }) => rule.id === decision.rule?.id)
      const reason = by
        ? `rule ${by.rule.id} (${by.rule.description || by.rule.effect}) ${decision.allow ? 'allows' : 'denies'} it`
        : 'no rule allows it'
      return { allow: decision.allow, rule: by && toMessage(by), reason }
    },
  }),
  operation(replayPolicy, {
    summary: 'which past requests other rules would have answered differently',
    action: 'policy:manage',
    rest: { method: 'POST', path: '/v1/policy/replay' },
    cli: {
      words: 'policy replay',
      hidden: true,
      columns: ['name', 'action', 'repository', 'tag', 'address', 'was_allowed', 'is_allowed', 'rule', 'count'],
    },
    async run(input, _call, ctx) {
      const since = timeOf('since', input.since) ?? ctx.now() - 30 * 24 * hourMs
      const managed = (await allRules(ctx.metadata.read)).filter(({ managedBy, enabled }) => managedBy !== null && enabled)
      // Rules under trial have no id yet: they get one beyond all others, by their place.
      const trial: Rule[] = input.rules
        .filter((message) => message.enabled ?? true)
        .map((message, index) => ({
          ...checkRule(toInput({ ...message, priority: message.priority || 100 })),
          id: 1_000_000_000 + index,
        }))
      const rules = compileRules([...ctx.rules.builtIn, ...managed.map(({ rule }) => rule), ...trial])
      return await replay(ctx, since, (past) => evaluate(rules, { ...past, now: ctx.now() }))
    },
  }),
]

interface Past {
  subject: string
  kind: PrincipalKind
  roles: string[]
  action: Action
  repository?: string
  tag?: string
  address?: string
}

async function replay(ctx: AdminContext, since: number, ask: (past: Past) => ReturnType<typeof evaluate>) {
  const rows = await ctx.metadata.read.all<{
    subject: string
    name: string | null
    kind: PrincipalKind
    roles: string
    action: Action
    repository: string
    tag: string
    address: string
    allowed: number
    count: number
  }>(
    `SELECT d.subject, a.name, d.kind, d.roles, d.action, d.repository, d.tag, d.address, d.allowed, sum(d.count) AS count
     FROM decisions d LEFT JOIN accounts a ON a.subject = d.subject WHERE d.hour >= ?
     GROUP BY d.subject, d.kind, d.roles, d.action, d.repository, d.tag, d.address, d.allowed
     ORDER BY count DESC, d.subject, d.action, d.repository LIMIT 200001`,
    [Math.floor(since / hourMs)],
  )
  if (rows.length > 200_000) throw invalid('since', 'later: that is more than 200000 different requests')
  const flips = []
  let requests = 0
  let flipped = 0
  for (const row of rows) {
    requests += row.count
    const roles = JSON.parse(row.roles) as string[]
    const decision = ask({
      subject: row.subject,
      kind: row.kind,
      roles,
      action: row.action,
      repository: row.repository || undefined,
      tag: row.tag || undefined,
      address: row.address || undefined,
    })
    if (decision.allow === (row.allowed !== 0)) continue
    flipped += row.count
    if (flips.length < flipsMost)
      flips.push({
        subject: row.subject,
        name: row.name ?? row.subject,
        accountType: row.kind,
        roles,
        action: row.action,
        repository: row.repository,
        tag: row.tag,
        address: row.address,
        wasAllowed: row.allowed !== 0,
        isAllowed: decision.allow,
        rule: decision.rule
          ? decision.rule.description || `${decision.allow ? 'allow' : 'deny'} without a description`
          : 'no rule allows it',
        count: BigInt(row.count),
      })
  }
  return { flips, requests: BigInt(requests), flipped: BigInt(flipped) }
}

async function whoOf(
  input: { account: string; roles: string[]; accountType: string },
  ctx: AdminContext,
): Promise<Pick<Principal, 'subject' | 'kind' | 'roles'>> {
  if (input.account === 'anonymous' || input.accountType === 'anonymous') return anonymous
  if (input.account !== '') {
    const account = await findAccountBy(ctx.metadata.read, input.account)
    if (!account) throw ociError('NOT_FOUND', undefined, { message: `there is no account ${input.account.slice(0, 128)}` })
    return account
  }
  const kind = input.accountType || 'human'
  if (kind !== 'human' && kind !== 'system') throw invalid('account_type', 'human, system or anonymous')
  return { subject: '', kind, roles: input.roles }
}

function actionOf(text: string): Action {
  const action = actions.find((known) => known === text || known.endsWith(`:${text}`))
  if (!action) throw invalid('action', `one of ${actions.join(', ')}`)
  return action
}
