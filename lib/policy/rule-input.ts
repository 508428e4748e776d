import ipaddr from 'ipaddr.js'
import { parseRole } from '../auth/accounts.ts'
import { ociError } from '../oci/errors.ts'
import { type Action, actions } from './actions.ts'
import { compileGlob } from './glob.ts'
import type { Rule } from './rule.ts'

/** What somebody says a rule should be, before it was looked at. Lists that are empty match everything. */
export interface RuleInput {
  priority: number
  description: string
  effect: string
  roles: readonly string[]
  accountTypes: readonly string[]
  subject: string
  actions: readonly string[]
  repositories: readonly string[]
  tags: readonly string[]
  networks: readonly string[]
  except: { repositories: readonly string[]; tags: readonly string[]; networks: readonly string[] }
  expiresAt?: number
  message: string
}

const listMost = 200
const kinds = ['human', 'system', 'anonymous']
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** A rule that can be evaluated. Errors: INVALID, naming the field and what it may be. */
export function checkRule(input: RuleInput): Omit<Rule, 'id'> {
  const wrong = (field: string, expected: string) =>
    ociError('INVALID', { field, expected }, { message: `${field}: ${expected}` })
  const list = (field: string, values: readonly string[], check: (value: string) => void) => {
    if (values.length > listMost) throw wrong(field, `at most ${listMost} entries`)
    for (const value of values)
      try {
        if (value.length === 0 || value.length > 300) throw new Error('1 to 300 characters')
        check(value)
      } catch (error) {
        throw wrong(field, (error as Error).message)
      }
    return [...new Set(values)]
  }
  const words = (field: string, text: string) => {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    if (text.length > 512 || /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/.test(text))
      throw wrong(field, 'at most 512 characters, none of them a control character')
    return text
  }
  const oneOf = (known: readonly string[]) => (value: string) => {
    if (!known.includes(value)) throw new Error(`${JSON.stringify(value.slice(0, 64))} is none of ${known.join(', ')}`)
  }
  if (!Number.isInteger(input.priority) || input.priority < 1 || input.priority > 1_000_000)
    throw wrong('priority', 'a whole number from 1 to 1000000; 0 is of the built-in rules')
  if (input.effect !== 'allow' && input.effect !== 'deny') throw wrong('effect', 'allow or deny')
  if (input.actions.length === 0) throw wrong('actions', `at least one of ${actions.join(', ')}`)
  const subject = uuid.test(input.subject) ? `mcias:${input.subject}` : words('subject_uuid', input.subject)
  return {
    priority: input.priority,
    description: words('description', input.description),
    effect: input.effect,
    roles: list('roles', input.roles, (role) => void parseRole(role)),
    accountTypes: list('account_types', input.accountTypes, oneOf(kinds)) as Rule['accountTypes'],
    subject: subject === '' ? undefined : subject,
    actions: list('actions', input.actions, oneOf(actions)) as Action[],
    repositories: list('repositories', input.repositories, (glob) => void compileGlob(glob)),
    tags: list('tags', input.tags, (glob) => void compileGlob(glob)),
    networks: list('networks', input.networks, checkNetwork),
    except: {
      repositories: list('except.repositories', input.except.repositories, (glob) => void compileGlob(glob)),
      tags: list('except.tags', input.except.tags, (glob) => void compileGlob(glob)),
      networks: list('except.networks', input.except.networks, checkNetwork),
    },
    expiresAt: input.expiresAt,
    message: input.message === '' ? undefined : words('message', input.message),
  }
}

function checkNetwork(text: string): void {
  try {
    if (text.includes('/')) ipaddr.parseCIDR(text)
    else ipaddr.parse(text)
  } catch {
    throw new Error(`${JSON.stringify(text.slice(0, 64))} is no address or network such as 10.0.0.0/8`)
  }
}
