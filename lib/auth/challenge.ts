import type { Exchange } from '../context.ts'

/** Name and password of a Basic header's value, or undefined where it is none.  Source: RFC 7617. */
export function parseBasic(value: string): { name: string; password: string } | undefined {
  if (value.length > 4096) return undefined
  try {
    const bytes = Uint8Array.from(atob(value), (char) => char.charCodeAt(0))
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    const colon = text.indexOf(':')
    return colon < 0 || text.includes('\0') ? undefined : { name: text.slice(0, colon), password: text.slice(colon + 1) }
  } catch {
    return undefined
  }
}

/**
 * The one challenge of every 401: Bearer, all values quoted, none empty, realm absolute. A second challenge or an empty scope breaks
 * docker, oras and others.  Source: distribution, "Token Authentication Specification".
 */
export function formatChallenge(service: string, exchange: Exchange, scope?: string, problem?: string): string {
  const parts = [`realm="${exchange.origin}/v2/token"`, `service="${service}"`]
  if (scope) parts.push(`scope="${scope}"`)
  if (problem) parts.push(`error="${problem}"`)
  return `Bearer ${parts.join(',')}`
}
