import { LRUCache } from 'lru-cache'
import type { Base } from '../lib/context.ts'

interface Entry {
  revision: number
  value: unknown
  until: number
}

/** Bytes of remembered bodies, and of the entries themselves by a fixed guess. */
const maxBytes = 64 * 1024 * 1024

/**
 * The one memory lib has: an answer is kept while the database has not changed since before it was looked up. Where the database cannot
 * say so (`revision` undefined), nothing is kept.
 */
export function createRemember(revision: () => number | undefined, now: () => number): Base['remember'] {
  const entries = new LRUCache<string, Entry>({ maxSize: maxBytes, sizeCalculation: sizeOf })
  return async (key, load, until) => {
    // Read before the query runs: a commit in between must make the entry stale, not be hidden by it.
    const before = revision()
    if (before === undefined) return await load()
    const known = entries.get(key)
    if (known && known.revision === before && known.until > now()) return known.value as never
    const value = await load()
    entries.set(key, { revision: before, value, until: until?.(value) ?? Number.POSITIVE_INFINITY })
    return value
  }
}

function sizeOf({ value }: Entry): number {
  const body = (value as { body?: Uint8Array } | undefined)?.body
  return 2048 + (body?.byteLength ?? 0)
}
