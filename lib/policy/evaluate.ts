import ipaddr from 'ipaddr.js'
import type { PrincipalKind } from '../auth/principal.ts'
import type { Action } from './actions.ts'
import { compileGlob, firstComponent, lastUnit } from './glob.ts'
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
type Network = (address: Address) => boolean
/** IPv4 addresses of one network: those that are `wanted` under `mask`. */
interface Network4 {
  readonly mask: number
  readonly wanted: number
}
interface CompiledRule {
  readonly rule: Rule
  // What most rules fail by is compared first and where it stands: a registry may have a thousand rules.
  readonly expiresAt?: number
  /** its only role */
  readonly role?: string
  /** what every repository that it matches ends in, where that is one thing */
  readonly lastUnit?: number
  /** the upper half of its only network, where that is one of IPv4; else 0 under a mask of 0 */
  readonly network: number
  readonly networkMask: number
  /** place in the order in which rules are looked at */
  readonly order: number
  readonly repositories?: Matcher
  readonly tags?: Matcher
  readonly networks?: Network
  readonly exceptRepositories?: Matcher
  readonly exceptTags?: Matcher
  readonly exceptNetworks?: Network
}
/** The rules of an action: those about repositories under one first component by that, and all others. */
interface RulesOfAction {
  readonly general: CompiledRule[]
  readonly byComponent: Map<string, CompiledRule[]>
  /** Whether any of them asks where the caller is: else its address need not be parsed. */
  networks: boolean
}
export type CompiledRules = ReadonlyMap<Action, RulesOfAction>

const tagged: ReadonlySet<Action> = new Set<Action>(['registry:push', 'registry:overwrite', 'registry:delete'])

/** Rules by action, in the order they are looked at, with their globs and networks compiled. */
export function compileRules(rules: readonly Rule[]): CompiledRules {
  const sorted = [...rules].sort((a, b) => a.priority - b.priority)
  const byAction = new Map<Action, RulesOfAction>()
  for (const [order, rule] of sorted.entries()) {
    const network4 = rule.networks.length === 1 ? network4Of(rule.networks[0] as string) : undefined
    const compiled: CompiledRule = {
      rule,
      expiresAt: rule.expiresAt,
      role: rule.roles.length === 1 ? rule.roles[0] : undefined,
      lastUnit: rule.repositories.length === 1 ? lastUnit(rule.repositories[0] as string) : undefined,
      network: network4 ? network4.wanted >>> 16 : 0,
      networkMask: network4 ? network4.mask >>> 16 : 0,
      order,
      repositories: anyOf(rule.repositories.map(compileGlob)),
      tags: anyOf(rule.tags.map(compileGlob)),
      networks: anyOf(rule.networks.map(compileNetwork)),
      exceptRepositories: anyOf(rule.except.repositories.map(compileGlob)),
      exceptTags: anyOf(rule.except.tags.map(compileGlob)),
      exceptNetworks: anyOf(rule.except.networks.map(compileNetwork)),
    }
    const components = rule.repositories.map(firstComponent)
    const indexed = components.length > 0 && components.every((component) => component !== undefined)
    // Who may push may overwrite, unless a rule about overwriting says no.
    const implied = rule.effect === 'allow' && rule.actions.includes('registry:push') ? ['registry:overwrite' as const] : []
    for (const action of new Set([...rule.actions, ...implied])) {
      const of = byAction.get(action) ?? { general: [], byComponent: new Map<string, CompiledRule[]>(), networks: false }
      byAction.set(action, of)
      of.networks ||= compiled.networks !== undefined || compiled.exceptNetworks !== undefined
      if (!indexed) of.general.push(compiled)
      else
        for (const component of new Set(components as string[]))
          of.byComponent.set(component, [...(of.byComponent.get(component) ?? []), compiled])
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
  const of = rules.get(input.action)
  const general = of?.general ?? []
  const slash = input.repository?.indexOf('/') ?? -1
  const own =
    (input.repository !== undefined && of?.byComponent.get(slash < 0 ? input.repository : input.repository.slice(0, slash))) || []
  const address = of?.networks ? addressOf(input.address) : undefined
  const upper = address?.v4 === undefined ? 0 : address.v4 >>> 16
  const lastUnit = input.repository?.charCodeAt(input.repository.length - 1)
  const { roles } = input
  // Two lists in order, walked as one.
  for (let g = 0, o = 0; g < general.length || o < own.length; ) {
    const fromOwn =
      o < own.length && (g === general.length || (own[o] as CompiledRule).order < (general[g] as CompiledRule).order)
    const compiled = (fromOwn ? own[o++] : general[g++]) as CompiledRule
    if (compiled.expiresAt !== undefined) {
      if (compiled.expiresAt <= input.now) continue
      expiresAt = Math.min(expiresAt ?? Number.POSITIVE_INFINITY, compiled.expiresAt)
    }
    if (compiled.lastUnit !== undefined && compiled.lastUnit !== lastUnit) continue
    if (compiled.role !== undefined && !roles.includes(compiled.role)) continue
    if ((upper & compiled.networkMask) !== compiled.network) continue
    const { rule } = compiled
    if (allowed !== undefined && rule.effect === 'allow') continue
    if (!applies(compiled, input, address)) continue
    if (rule.effect === 'deny') return { allow: false, rule, expiresAt }
    allowed = rule
  }
  return allowed ? { allow: true, rule: allowed, expiresAt } : { allow: false, expiresAt }
}

function applies(compiled: CompiledRule, input: PolicyInput, address: Address | undefined): boolean {
  const { rule } = compiled
  if (rule.accountTypes.length === 0 ? input.kind === 'anonymous' : !rule.accountTypes.includes(input.kind)) return false
  if (rule.subject !== undefined && rule.subject !== input.subject) return false
  if (rule.roles.length > 0 && !rule.roles.some((role) => input.roles.includes(role))) return false
  if (compiled.repositories && (input.repository === undefined || !compiled.repositories(input.repository))) return false
  if (compiled.exceptRepositories && input.repository !== undefined && compiled.exceptRepositories(input.repository)) return false
  if (compiled.networks && (address === undefined || !compiled.networks(address))) return false
  if (compiled.exceptNetworks && address !== undefined && compiled.exceptNetworks(address)) return false
  if (!tagged.has(input.action)) return true
  // A question without a tag ("may it push here at all?") is answered yes by a rule for some tags, and never refused by one.
  if (compiled.tags && (input.tag === undefined ? rule.effect === 'deny' : !compiled.tags(input.tag))) return false
  return !(compiled.exceptTags && input.tag !== undefined && compiled.exceptTags(input.tag))
}

function anyOf<T>(matchers: readonly ((value: T) => boolean)[]): ((value: T) => boolean) | undefined {
  return matchers.length < 2 ? matchers[0] : (value) => matchers.some((matches) => matches(value))
}

/** An address as its bytes, and IPv4 (also where it came within IPv6) as one number: most networks are compared by that. */
interface Address {
  readonly v4: number | undefined
  readonly bytes: readonly number[]
}

const numberOf = (bytes: readonly number[]) => bytes.reduce((sum, byte) => (sum << 8) | byte, 0)

/** The address a text is, or undefined where it is none (a unix socket). */
function addressOf(text: string | undefined): Address | undefined {
  if (text === undefined || !ipaddr.isValid(text)) return undefined
  const bytes = ipaddr.process(text).toByteArray()
  return { v4: bytes.length === 4 ? numberOf(bytes) : undefined, bytes }
}

function compileNetwork(cidr: string): Network {
  const own4 = network4Of(cidr)
  if (own4) return ({ v4 }) => v4 !== undefined && (v4 & own4.mask) === own4.wanted
  const { own, length } = bytesOf(cidr)
  const whole = length >> 3
  const mask = (0xff << (8 - (length & 7))) & 0xff
  return ({ bytes }) => {
    if (bytes.length !== own.length) return false
    for (let at = 0; at < whole; at++) if (bytes[at] !== own[at]) return false
    return (length & 7) === 0 || ((bytes[whole] as number) & mask) === ((own[whole] as number) & mask)
  }
}

function network4Of(cidr: string): Network4 | undefined {
  const { own, length } = bytesOf(cidr)
  if (own.length !== 4) return undefined
  const mask = length === 0 ? 0 : -1 << (32 - length)
  return { mask, wanted: numberOf(own) & mask }
}

function bytesOf(cidr: string): { own: readonly number[]; length: number } {
  const [network, bits] = cidr.includes('/') ? ipaddr.parseCIDR(cidr) : [ipaddr.parse(cidr), undefined]
  const own = network.toByteArray()
  return { own, length: bits ?? own.length * 8 }
}
