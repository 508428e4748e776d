import type { Principal } from '../auth/principal.ts'
import type { Action } from './actions.ts'
import { compileGlob } from './glob.ts'
import type { Rule } from './rule.ts'

/** Whether a principal holds an action on everything a glob can match; no glob: on everything. */
export type Holds = (action: Action, pattern: string | undefined) => boolean

/**
 * What a principal holds, for the rule that nobody grants more (P6). Careful on one side only: where it cannot be sure that one glob
 * covers another, or a deny may be in the way, it says no.
 */
export function holdingsOf(rules: readonly Rule[], principal: Pick<Principal, 'subject' | 'kind' | 'roles'>, now: number): Holds {
  const mine = rules.filter(
    (rule) =>
      (rule.expiresAt === undefined || rule.expiresAt > now) &&
      (rule.accountTypes.length === 0 || rule.accountTypes.includes(principal.kind)) &&
      (rule.subject === undefined || rule.subject === principal.subject) &&
      (rule.roles.length === 0 || rule.roles.some((role) => principal.roles.includes(role))),
  )
  const plain = ({ tags, networks, except }: Rule) =>
    tags.length === 0 &&
    networks.length === 0 &&
    except.repositories.length === 0 &&
    except.tags.length === 0 &&
    except.networks.length === 0
  return (action, pattern) => {
    const about = mine.filter(
      (rule) =>
        rule.actions.includes(action) ||
        (action === 'registry:overwrite' && rule.effect === 'allow' && rule.actions.includes('registry:push')),
    )
    const denied = about.some(
      (rule) =>
        rule.effect === 'deny' &&
        !(
          pattern !== undefined &&
          isPlainName(pattern) &&
          rule.repositories.length > 0 &&
          !matchesAny(rule.repositories, pattern)
        ),
    )
    if (denied) return false
    return about.some(
      (rule) =>
        rule.effect === 'allow' &&
        plain(rule) &&
        (rule.repositories.length === 0 || (pattern !== undefined && rule.repositories.some((own) => covers(own, pattern)))),
    )
  }
}

const isPlainName = (pattern: string) => !/[*?[\\]/.test(pattern)
const matchesAny = (globs: readonly string[], name: string) => globs.some((glob) => compileGlob(glob)(name))

function covers(own: string, pattern: string): boolean {
  if (own === '**' || own === pattern) return true
  if (own.endsWith('/**') && isPlainName(own.slice(0, -3))) return pattern.startsWith(own.slice(0, -2))
  return isPlainName(pattern) && compileGlob(own)(pattern)
}

/** The first thing that a rule would allow and its writer does not hold, or undefined. */
export function beyond(rule: Pick<Rule, 'effect' | 'actions' | 'repositories'>, holds: Holds): string | undefined {
  if (rule.effect === 'deny') return undefined
  const patterns = rule.repositories.length === 0 ? [undefined] : rule.repositories
  for (const action of rule.actions)
    for (const pattern of patterns) if (!holds(action, pattern)) return `${action} on ${pattern ?? 'everything'}`
  return undefined
}
