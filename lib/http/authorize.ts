import type { Caller } from '../auth/principal.ts'
import { grants } from '../auth/scope.ts'
import type { Base, Exchange, Resource } from '../context.ts'
import type { Sql } from '../metadata/sql.ts'
import { type OciError, ociError } from '../oci/errors.ts'
import type { Action } from '../policy/actions.ts'
import type { Decision } from '../policy/evaluate.ts'

/** What must be allowed: every demand, each by any one of its actions. */
export interface Demand {
  anyOf: readonly Action[]
  repository?: string
}

/**
 * P1. The policy refuses the principal whatever token it brings: 403 (anonymous: 401, it may log in). The policy allows it but this
 * token did not ask: 401 `insufficient_scope` with the full scope. Evaluated before any look-up, so an unreadable repository answers
 * exactly as an absent one.
 */
export async function authorize(demand: Demand, caller: Caller, ctx: Base, exchange: Exchange): Promise<void> {
  const { anyOf, repository } = demand
  const first = anyOf[0] as Action
  exchange.action = first
  const resource = repository === undefined ? undefined : { repository }
  let refused: Decision | undefined
  let narrowed = false
  for (const action of anyOf) {
    const decision = await ctx.decide(caller, exchange, action, resource)
    if (!decision.allow) refused ??= decision
    else if (!tokenHolds(caller, action, repository)) narrowed = true
    else {
      tally(ctx, caller, exchange, action, resource, decision)
      return
    }
  }
  if (narrowed)
    throw unauthorized(ctx, exchange, scopeOf(first, repository), 'insufficient_scope', 'the token does not hold the scope')
  throw denied(ctx, caller, exchange, first, resource, refused as Decision)
}

/**
 * P5: what guards a change is asked inside the transaction that makes it, from the rules as it sees them.
 * Errors: DENIED with the rule's message, or with `otherwise`.
 */
export async function requireInside(
  ctx: Base,
  caller: Caller,
  exchange: Exchange,
  action: Action,
  resource: Resource,
  sql: Sql,
  otherwise: string,
): Promise<void> {
  const decision = await ctx.decide(caller, exchange, action, resource, sql)
  if (!decision.allow) throw denied(ctx, caller, exchange, action, resource, decision, otherwise)
  tally(ctx, caller, exchange, action, resource, decision)
}

/** A refusal by the policy; anonymous callers are asked to log in instead. */
function denied(
  ctx: Base,
  caller: Caller,
  exchange: Exchange,
  action: Action,
  resource: Resource | undefined,
  decision: Decision,
  otherwise?: string,
): OciError {
  tally(ctx, caller, exchange, action, resource, decision)
  if (caller.principal.kind === 'anonymous')
    return unauthorized(ctx, exchange, scopeOf(action, resource?.repository), undefined, 'authentication required')
  const { repository, tag } = resource ?? {}
  exchange.action = action
  exchange.ruleId = decision.rule?.id
  return ociError(
    'DENIED',
    { action, ...(repository ? { repository } : {}), ...(tag ? { tag } : {}) },
    { message: decision.rule?.message || otherwise },
  )
}

function tally(
  ctx: Base,
  caller: Caller,
  exchange: Exchange,
  action: Action,
  resource: Resource | undefined,
  decision: Decision,
): void {
  // What a token's own limits refuse says nothing about the rules.
  if (decision.rule?.id === 0) return
  const { subject, kind, roles } = caller.principal
  ctx.tally({
    subject,
    kind,
    roles,
    action,
    repository: resource?.repository ?? '',
    tag: resource?.tag ?? '',
    address: exchange.address,
    allowed: decision.allow,
    ruleId: decision.rule?.id ?? 0,
  })
}

export function unauthorized(
  ctx: Base,
  exchange: Exchange,
  scope: string | undefined,
  problem: 'insufficient_scope' | undefined,
  message: string,
): OciError {
  return ociError('UNAUTHORIZED', scope ? { scope } : undefined, {
    message,
    headers: { 'WWW-Authenticate': ctx.challenge(exchange, scope, problem) },
  })
}

const verbs: Partial<Record<Action, string>> = {
  'registry:pull': 'pull',
  'registry:push': 'push',
  'registry:overwrite': 'push',
  'registry:delete': 'delete',
}

/** The scope a client must ask for, in full: writers need to read as well. */
export function scopeOf(action: Action, repository: string | undefined): string | undefined {
  if (action === 'registry:catalog') return 'registry:catalog:*'
  const verb = verbs[action]
  if (!verb || repository === undefined) return undefined
  return `repository:${repository}:${verb === 'push' ? 'pull,push' : verb}`
}

function tokenHolds(caller: Caller, action: Action, repository: string | undefined): boolean {
  if (!caller.access || action === 'registry:version_check') return true
  if (action === 'registry:catalog') return grants(caller.access, 'registry', 'catalog', '*')
  const verb = verbs[action]
  return verb !== undefined && repository !== undefined && grants(caller.access, 'repository', repository, verb)
}
