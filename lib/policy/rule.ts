import type { PrincipalKind } from '../auth/principal.ts'
import type { Action } from './actions.ts'
import { actions } from './actions.ts'

/** One rule. Every field that is filled must match; an empty one matches everything, except that anonymous must be named. */
export interface Rule {
  readonly id: number
  /** lower is looked at first; a deny wins at any priority */
  readonly priority: number
  readonly description: string
  readonly effect: 'allow' | 'deny'
  readonly roles: readonly string[]
  readonly accountTypes: readonly PrincipalKind[]
  readonly subject?: string
  readonly actions: readonly Action[]
  /** globs over repository names */
  readonly repositories: readonly string[]
  /** globs over tags; they constrain push, overwrite and delete, not pull (a digest would walk around them) */
  readonly tags: readonly string[]
  /** source networks in CIDR notation */
  readonly networks: readonly string[]
  readonly except: {
    readonly repositories: readonly string[]
    readonly tags: readonly string[]
    readonly networks: readonly string[]
  }
  /** ms since 1970 */
  readonly expiresAt?: number
  /** what a refused client reads */
  readonly message?: string
}

const nothing = { repositories: [], tags: [], networks: [] }
const builtIn = {
  priority: 0,
  effect: 'allow',
  roles: [],
  accountTypes: [],
  repositories: [],
  tags: [],
  networks: [],
  except: nothing,
} as const

/** The rules that are always there: admin everything; people their content (unless switched off); the ping; the filtered catalog. */
export function builtInRules(options: { userContent: boolean }): Rule[] {
  const content: Rule = {
    ...builtIn,
    id: -2,
    description: 'people with the role user: all content',
    roles: ['user'],
    accountTypes: ['human'],
    actions: ['registry:pull', 'registry:push', 'registry:delete', 'registry:catalog'],
  }
  return [
    { ...builtIn, id: -1, description: 'admin: everything', roles: ['admin'], actions },
    ...(options.userContent ? [content] : []),
    { ...builtIn, id: -3, description: 'everybody who is logged in: version check', actions: ['registry:version_check'] },
    { ...builtIn, id: -4, description: 'everybody who is logged in: catalog of what it may pull', actions: ['registry:catalog'] },
  ]
}

/** A rule as its row keeps it. */
export function parseRule(row: { id: number; priority: number; description: string; rule: string }): Rule {
  const json = JSON.parse(row.rule) as Partial<Record<string, unknown>>
  const list = (value: unknown) => (Array.isArray(value) ? (value as string[]) : [])
  const except = (json.except ?? {}) as Record<string, unknown>
  return {
    id: row.id,
    priority: row.priority,
    description: row.description,
    effect: json.effect === 'deny' ? 'deny' : 'allow',
    roles: list(json.roles),
    accountTypes: list(json.account_types) as PrincipalKind[],
    subject: typeof json.subject_uuid === 'string' && json.subject_uuid !== '' ? json.subject_uuid : undefined,
    actions: list(json.actions) as Action[],
    repositories: list(json.repositories),
    tags: list(json.tags),
    networks: list(json.networks),
    except: { repositories: list(except.repositories), tags: list(except.tags), networks: list(except.networks) },
    expiresAt: typeof json.expires_at === 'number' ? json.expires_at : undefined,
    message: typeof json.message === 'string' ? json.message : undefined,
  }
}
