import { parse, stringify } from 'smol-toml'

/** Rules of a TOML file: one `[[rules]]` each, with the fields of REST. Errors: a plain Error naming the rule. */
export function parseRules(text: string): Record<string, unknown>[] {
  const document = parse(text) as { rules?: unknown }
  const extra = Object.keys(document).filter((key) => key !== 'rules')
  if (extra.length > 0) throw new Error(`unknown key ${extra[0]}: a rules file has [[rules]] and nothing else`)
  if (document.rules === undefined) return []
  if (!Array.isArray(document.rules)) throw new Error('rules must be written as [[rules]]')
  return document.rules.map((rule: Record<string, unknown>, index) => {
    const { expires_at: expires, ...rest } = rule
    for (const name of ['id', 'managed_by', 'created_at', 'updated_at'])
      if (name in rest) throw new Error(`rule ${index + 1}: ${name} is not written, it is kept by the registry`)
    return {
      ...rest,
      ...(expires === undefined ? {} : { expires_at: expires instanceof Date ? expires.toISOString() : expires }),
    }
  })
}

/** The same file of rules as REST has them: what is empty, and what the registry keeps by itself, is left out. */
export function formatRules(rules: readonly Record<string, unknown>[]): string {
  const clean = rules.map((rule) =>
    Object.fromEntries(
      Object.entries(rule)
        .filter(([name]) => !['id', 'managed_by', 'created_at', 'updated_at'].includes(name))
        .filter(([name, value]) => !(name === 'enabled' && value === true))
        .map(([name, value]) => [name, name === 'except' ? withoutEmpty(value as Record<string, unknown>) : value])
        .filter(([, value]) => !isEmpty(value)),
    ),
  )
  return clean.length === 0 ? '# no rules\n' : stringify({ rules: clean })
}

const isEmpty = (value: unknown): boolean =>
  value === '' ||
  value === undefined ||
  (Array.isArray(value) && value.length === 0) ||
  (typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length === 0)
const withoutEmpty = (value: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(value).filter(([, entry]) => !isEmpty(entry)))

/** What would change, as lines a person reads: `+` comes, `-` goes, `~` changes. */
export function formatChanges(
  changes: readonly { change?: unknown; before?: unknown; after?: unknown }[],
  unchanged: number,
): string {
  const one = (rule: unknown) => {
    const {
      effect,
      actions,
      repositories,
      roles,
      subject_uuid: subject,
      description,
      tags,
    } = rule as Record<string, string[] & string>
    const parts = [
      effect,
      (actions ?? []).join(','),
      repositories?.length ? `on ${repositories.join(',')}` : '',
      tags?.length ? `tags ${tags.join(',')}` : '',
    ]
    return `${[...parts, roles?.length ? `for roles ${roles.join(',')}` : '', subject ? `for ${subject}` : ''].filter(Boolean).join(' ')}${description ? `  (${description})` : ''}`
  }
  const lines = changes.map(({ change, before, after }) => {
    if (change === 'created') return `+ ${one(after)}`
    if (change === 'deleted') return `- ${one(before)}`
    return [`~ ${one(before)}`, ...changedFields(before as Fields, after as Fields)].join('\n')
  })
  return `${[...lines, `${changes.length} to change, ${unchanged} stay`].join('\n')}\n`
}

type Fields = Record<string, unknown>

function changedFields(before: Fields, after: Fields): string[] {
  return Object.keys(after)
    .filter((name) => !['id', 'managed_by', 'created_at', 'updated_at'].includes(name))
    .filter((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name]))
    .map((name) => `    ${name}: ${JSON.stringify(before[name] ?? null)} → ${JSON.stringify(after[name])}`)
}
