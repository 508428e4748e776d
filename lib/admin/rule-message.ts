import type { MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import type { StoredRule } from '../metadata/rules.ts'
import type { Rule } from '../policy/rule.ts'
import type { RuleInput } from '../policy/rule-input.ts'
import type { PolicyService, Rule as RuleMessage, RuleSchema } from './gen/mcr/v1/policy_pb.ts'
import { invalid, stamp, stampOrNone, timeOf } from './input.ts'

type AnyRuleMessage =
  | Omit<MessageShape<typeof PolicyService.method.createRule.input>, '$typeName' | '$unknown' | 'enabled'>
  | Omit<RuleMessage, '$typeName' | '$unknown' | 'enabled'>

/** What somebody says a rule should be, out of a message. */
export function toInput(message: AnyRuleMessage): RuleInput {
  const { priority, description, effect, roles, accountTypes, subjectUuid, actions, repositories, tags, networks, except } =
    message
  return {
    priority,
    description,
    effect,
    roles,
    accountTypes,
    subject: subjectUuid,
    actions,
    repositories,
    tags,
    networks,
    except: { repositories: except?.repositories ?? [], tags: except?.tags ?? [], networks: except?.networks ?? [] },
    expiresAt: timeOf('expires_at', message.expiresAt),
    message: message.message,
  }
}

const clearable = [
  'roles',
  'account_types',
  'subject_uuid',
  'repositories',
  'tags',
  'networks',
  'except',
  'expires_at',
  'message',
  'description',
]

/** A rule as an update leaves it: what is given, what is emptied, and the rest as it was. Errors: INVALID. */
export function merge(before: Rule, input: MessageShape<typeof PolicyService.method.updateRule.input>): RuleInput {
  for (const name of input.clear) if (!clearable.includes(name)) throw invalid('clear', `of ${clearable.join(', ')}`)
  const cleared = new Set(input.clear)
  const list = <T extends string>(name: string, given: readonly string[], old: readonly T[]) =>
    cleared.has(name) ? [] : given.length > 0 ? given : old
  const text = (name: string, given: string | undefined, old: string | undefined) =>
    cleared.has(name) ? '' : (given ?? old ?? '')
  return {
    priority: input.priority ?? before.priority,
    description: text('description', input.description, before.description),
    effect: input.effect ?? before.effect,
    roles: list('roles', input.roles, before.roles),
    accountTypes: list('account_types', input.accountTypes, before.accountTypes),
    subject: text('subject_uuid', input.subjectUuid, before.subject),
    actions: list('actions', input.actions, before.actions),
    repositories: list('repositories', input.repositories, before.repositories),
    tags: list('tags', input.tags, before.tags),
    networks: list('networks', input.networks, before.networks),
    except: cleared.has('except') ? { repositories: [], tags: [], networks: [] } : (input.except ?? before.except),
    expiresAt: cleared.has('expires_at') ? undefined : (timeOf('expires_at', input.expiresAt) ?? before.expiresAt),
    message: text('message', input.message, before.message),
  }
}

/** A rule in the proto's form; what is built in has neither state nor times. */
export function toMessage(stored: Partial<StoredRule> & { rule: Rule }): MessageInitShape<typeof RuleSchema> {
  const { rule, enabled, managedBy, createdAt, updatedAt } = stored
  return {
    id: BigInt(rule.id),
    priority: rule.priority,
    description: rule.description,
    effect: rule.effect,
    roles: [...rule.roles],
    accountTypes: [...rule.accountTypes],
    subjectUuid: rule.subject ?? '',
    actions: [...rule.actions],
    repositories: [...rule.repositories],
    tags: [...rule.tags],
    networks: [...rule.networks],
    except: {
      repositories: [...rule.except.repositories],
      tags: [...rule.except.tags],
      networks: [...rule.except.networks],
    },
    expiresAt: stampOrNone(rule.expiresAt),
    message: rule.message ?? '',
    enabled: enabled ?? true,
    managedBy: managedBy ?? '',
    createdAt: createdAt === undefined ? undefined : stamp(createdAt),
    updatedAt: updatedAt === undefined ? undefined : stamp(updatedAt),
  }
}
