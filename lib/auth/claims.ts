/**
 * Whether claims fit what is wanted: each wanted one is there and matches, dots reach into objects, of a list one entry is enough.
 * A claim whose own name has dots or slashes is found under that name first.
 */
export function claimsMatch(
  claims: Record<string, unknown>,
  wanted: Record<string, string>,
  match: (pattern: string, text: string) => boolean,
): boolean {
  return Object.entries(wanted).every(([name, pattern]) => {
    const value = Object.hasOwn(claims, name) ? claims[name] : reach(claims, name)
    return [value].flat().some((entry) => /^(string|number|boolean)$/.test(typeof entry) && fits(pattern, String(entry), match))
  })
}

function fits(pattern: string, text: string, match: (pattern: string, text: string) => boolean): boolean {
  return pattern.includes('*') ? match(pattern, text) : pattern === text
}

function reach(claims: Record<string, unknown>, name: string): unknown {
  let at: unknown = claims
  for (const part of name.split('.')) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, part)) return undefined
    at = (at as Record<string, unknown>)[part]
  }
  return at
}
