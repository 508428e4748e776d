/**
 * Compiles a glob to a matcher: `*` and `?` stop at `/`, `[…]` with ranges and `^`, `\` escapes, and `**` crosses `/`.
 * Errors: a plain Error for a pattern that is none.  Source: Go's path.Match, plus `**`.
 */
export function compileGlob(pattern: string): (text: string) => boolean {
  const tokens = parse(pattern)
  const first = tokens.findIndex((token) => token.kind !== 'literal')
  if (first < 0) {
    const whole = literalOf(tokens)
    return (text) => text === whole
  }
  const last = tokens.findLastIndex((token) => token.kind !== 'literal')
  const prefix = literalOf(tokens.slice(0, first))
  const suffix = literalOf(tokens.slice(last + 1))
  if (first === last && tokens[first]?.kind === 'deep')
    return (text) => text.length >= prefix.length + suffix.length && text.startsWith(prefix) && text.endsWith(suffix)
  const least = prefix.length + suffix.length
  // What most texts fail by is looked at first: a registry may have a thousand rules.
  return (text) => text.length >= least && text.endsWith(suffix) && text.startsWith(prefix) && matches(tokens, text)
}

const literalOf = (tokens: readonly Token[]): string =>
  tokens.map((token) => (token.kind === 'literal' ? token.char : '')).join('')

/** The first path component of everything a glob matches, where it has a single one; undefined where it may have many. */
export function firstComponent(pattern: string): string | undefined {
  const tokens = parse(pattern)
  const end = tokens.findIndex((token) => token.kind !== 'literal' || token.char === '/')
  if (end < 0) return literalOf(tokens)
  const at = tokens[end] as Token
  return at.kind === 'literal' ? literalOf(tokens.slice(0, end)) : undefined
}

/** The last UTF-16 unit of everything a glob matches, where it is always the same; else undefined. */
export function lastUnit(pattern: string): number | undefined {
  const last = parse(pattern).at(-1)
  return last?.kind === 'literal' ? last.char.charCodeAt(last.char.length - 1) : undefined
}

type Token =
  | { kind: 'literal'; char: string }
  | { kind: 'any' }
  | { kind: 'star' }
  | { kind: 'deep' }
  | { kind: 'class'; negated: boolean; ranges: [string, string][] }

function parse(pattern: string): Token[] {
  const bad = (why: string) => new Error(`glob ${JSON.stringify(pattern)}: ${why}`)
  const chars = [...pattern]
  const tokens: Token[] = []
  for (let at = 0; at < chars.length; at++) {
    const char = chars[at] as string
    if (char === '*') {
      const deep = chars[at + 1] === '*'
      if (deep) while (chars[at + 1] === '*') at++
      tokens.push({ kind: deep ? 'deep' : 'star' })
    } else if (char === '?') tokens.push({ kind: 'any' })
    else if (char === '\\') {
      const next = chars[++at]
      if (next === undefined) throw bad('ends in a backslash')
      tokens.push({ kind: 'literal', char: next })
    } else if (char === '[') {
      const negated = chars[at + 1] === '^'
      if (negated) at++
      const ranges: [string, string][] = []
      while (chars[at + 1] !== ']' || ranges.length === 0) {
        const one = () => {
          const next = chars[++at] === '\\' ? chars[++at] : chars[at]
          if (next === undefined) throw bad('a [ without its ]')
          return next
        }
        const first = one()
        if (chars[at + 1] === '-' && chars[at + 2] !== ']') {
          at++
          ranges.push([first, one()])
        } else ranges.push([first, first])
      }
      at++
      tokens.push({ kind: 'class', negated, ranges })
    } else tokens.push({ kind: 'literal', char })
  }
  return tokens
}

/** One set of reachable token positions for each character: time is text × tokens, whatever the pattern. */
function matches(tokens: readonly Token[], text: string): boolean {
  let states = close(tokens, new Set([0]))
  for (const char of text) {
    const next = new Set<number>()
    for (const at of states) {
      const token = tokens[at]
      if (!token) continue
      if (token.kind === 'deep' || (token.kind === 'star' && char !== '/')) next.add(at)
      else if (accepts(token, char)) next.add(at + 1)
    }
    if (next.size === 0) return false
    states = close(tokens, next)
  }
  return states.has(tokens.length)
}

function close(tokens: readonly Token[], states: Set<number>): Set<number> {
  for (const at of states) {
    const kind = tokens[at]?.kind
    if (kind === 'star' || kind === 'deep') states.add(at + 1)
  }
  return states
}

function accepts(token: Token, char: string): boolean {
  if (token.kind === 'literal') return token.char === char
  if (char === '/') return false
  if (token.kind === 'any') return true
  return token.kind === 'class' && token.ranges.some(([low, high]) => low <= char && char <= high) !== token.negated
}
