import ipaddr from 'ipaddr.js'
import type { PrincipalKind } from '../auth/principal.ts'
import type { Action } from './actions.ts'
import { compileGlob } from './glob.ts'
import type { Rule } from './rule.ts'

export interface PolicyInput {
  readonly subject: string
  readonly kind: PrincipalKind
  readonly roles: readonly string[]
  readonly action: Action
  readonly repository?: string
  readonly tag?: string
  readonly address?: string
  /** ms since 1970 */
  readonly now: number
}

/** `rule` is the one that decided; none means that nothing allowed it. `expiresAt` bounds how long the answer holds. */
export interface Decision {
  readonly allow: boolean
  readonly rule?: Pick<Rule, 'id' | 'description' | 'message'>
  readonly expiresAt?: number
}

type Matcher = (text: string) => boolean
interface CompiledRule {
  readonly rule: Rule
  readonly repositories?: Matcher
  readonly tags?: Matcher
  readonly networks?: Matcher
  readonly exceptRepositories?: Matcher
  readonly exceptTags?: Matcher
  readonly exceptNetworks?: Matcher
}
export type CompiledRules = ReadonlyMap<Action, readonly CompiledRule[]>

const tagged: ReadonlySet<Action> = new Set<Action>(['registry:push', 'registry:overwrite', 'registry:delete'])

/** Rules by action, in the order they are looked at, with their globs and networks compiled. */
export function compileRules(rules: readonly Rule[]): CompiledRules {
  const sorted = [...rules].sort((a, b) => a.priority - b.priority)
  const byAction = new Map<Action, CompiledRule[]>()
  for (const rule of sorted) {
    const compiled: CompiledRule = {
      rule,
      repositories: anyOf(rule.repositories, compileGlob),
      tags: anyOf(rule.tags, compileGlob),
      networks: anyOf(rule.networks, compileNetwork),
      exceptRepositories: anyOf(rule.except.repositories, compileGlob),
      exceptTags: anyOf(rule.except.tags, compileGlob),
      exceptNetworks: anyOf(rule.except.networks, compileNetwork),
    }
    // Who may push may overwrite, unless a rule about overwriting says no.
    const implied = rule.effect === 'allow' && rule.actions.includes('registry:push') ? ['registry:overwrite' as const] : []
    for (const action of new Set([...rule.actions, ...implied])) {
      const list = byAction.get(action)
      if (list) list.push(compiled)
      else byAction.set(action, [compiled])
    }
  }
  return byAction
}

/**
 * Deny wins whatever its priority, else the first allow, else no. Pure.
 * A rule that names repositories never speaks of a global operation.
 */
export function evaluate(rules: CompiledRules, input: PolicyInput): Decision {
  let allowed: Rule | undefined
  let expiresAt: number | undefined
  for (const compiled of rules.get(input.action) ?? []) {
    const { rule } = compiled
    if (rule.expiresAt !== undefined) {
      if (rule.expiresAt <= input.now) continue
      expiresAt = Math.min(expiresAt ?? Number.POSITIVE_INFINITY, rule.expiresAt)
    }
    if (rule.effect === 'allow' && allowed) continue
    if (!applies(compiled, input)) continue
    if (rule.effect === 'deny') return { allow: false, rule, expiresAt }
    allowed = rule
  }
  return allowed ? { allow: true, rule: allowed, expiresAt } : { allow: false, expiresAt }
}

function applies(compiled: CompiledRule, input: PolicyInput): boolean {
  const { rule } = compiled
  if (rule.accountTypes.length === 0 ? input.kind === 'anonymous' : !rule.accountTypes.includes(input.kind)) return false
  if (rule.subject !== undefined && rule.subject !== input.subject) return false
  if (rule.roles.length > 0 && !rule.roles.some((role) => input.roles.includes(role))) return false
  if (compiled.repositories && (input.repository === undefined || !compiled.repositories(input.repository))) return false
  if (compiled.exceptRepositories && input.repository !== undefined && compiled.exceptRepositories(input.repository)) return false
  if (compiled.networks && (input.address === undefined || !compiled.networks(input.address))) return false
  if (compiled.exceptNetworks && input.address !== undefined && compiled.exceptNetworks(input.address)) return false
  if (!tagged.has(input.action)) return true
  // A question without a tag ("may it push here at all?") is answered yes by a rule for some tags, and never refused by one.
  if (compiled.tags && (input.tag === undefined ? rule.effect === 'deny' : !compiled.tags(input.tag))) return false
  return !(compiled.exceptTags && input.tag !== undefined && compiled.exceptTags(input.tag))
}

function anyOf(patterns: readonly string[], compile: (pattern: string) => Matcher): Matcher | undefined {
  if (patterns.length === 0) return undefined
  const matchers = patterns.map(compile)
  return (text) => matchers.some((match) => match(text))
}

function compileNetwork(cidr: string): Matcher {
  const [network, bits] = cidr.includes('/') ? ipaddr.parseCIDR(cidr) : [ipaddr.parse(cidr), undefined]
  return (text) => {
    if (!ipaddr.isValid(text)) return false
    const address = ipaddr.process(text)
    return address.kind() === network.kind() && address.match(network as never, bits ?? (network.kind() === 'ipv4' ? 32 : 128))
  }
}
