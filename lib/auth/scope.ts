/** What a token asks for or holds: actions on one thing. `actions` may be empty: asked for, and not granted. */
export interface Access {
  readonly type: string
  readonly name: string
  readonly actions: readonly string[]
}

const known: Readonly<Record<string, readonly string[]>> = { repository: ['pull', 'push', 'delete', '*'], registry: ['*'] }

/**
 * Scopes as clients send them: several values, each perhaps several scopes parted by spaces, merged by type and name. Names may hold
 * colons, so a scope is cut at its first and its last. Unknown types and actions are left out.
 * Errors: a RangeError over `most` scopes.  Source: distribution, "Token Scope Documentation".
 */
export function parseScopes(values: readonly string[], most = 100): Access[] {
  const merged = new Map<string, { type: string; name: string; actions: Set<string> }>()
  let count = 0
  for (const value of values) {
    for (const text of value.split(' ')) {
      if (text === '') continue
      if (++count > most) throw new RangeError(`more than ${most} scopes`)
      const first = text.indexOf(':')
      const last = text.lastIndexOf(':')
      if (first < 0 || last <= first || text.length > 1024) continue
      const type = text.slice(0, first).replace(/\([^)]*\)$/, '')
      const name = text.slice(first + 1, last)
      const allowed = known[type]
      if (!allowed || name === '') continue
      const key = `${type} ${name}`
      const entry = merged.get(key) ?? { type, name, actions: new Set<string>() }
      for (const action of text.slice(last + 1).split(',')) if (allowed.includes(action)) entry.actions.add(action)
      merged.set(key, entry)
    }
  }
  return [...merged.values()].map(({ type, name, actions }) => ({ type, name, actions: [...actions] }))
}

/** The scopes in the form of `parseScopes`, parted by spaces. */
export function formatScope(access: readonly Access[]): string {
  return access.map(({ type, name, actions }) => `${type}:${name}:${actions.join(',')}`).join(' ')
}

/** Whether the scopes hold an action on a thing; `*` holds all. */
export function grants(access: readonly Access[], type: string, name: string, action: string): boolean {
  for (const entry of access)
    if (entry.name === name && entry.type === type && (entry.actions.includes(action) || entry.actions.includes('*'))) return true
  return false
}
