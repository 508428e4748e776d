import { readFileSync } from 'node:fs'

/** Kept for the database, the log, directories that are synced, and connections that are turned away. */
const reserve = 64
const least = 8

/** How a process shares its file descriptors: so many connections, and as many files of blobs that are open at once. */
export interface Descriptors {
  limit: number
  connections: number
  files: number
}

/**
 * Half of what the reserve leaves for connections and half for files: who comes beyond is told 503, and no call of the process fails for
 * want of a descriptor. `limit` is what the kernel allows (RLIMIT_NOFILE); where it cannot be read, what Node has there.
 */
export function shareDescriptors(wanted: number, limit = descriptorLimit()): Descriptors {
  const share = Math.max(least, Math.floor((limit - reserve) / 2))
  return { limit, connections: Math.min(wanted, share), files: share }
}

function descriptorLimit(): number {
  try {
    const soft = /^Max open files +(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
    return soft === undefined || soft === 'unlimited' ? 1_048_576 : Number(soft)
  } catch {
    return 10_240
  }
}
