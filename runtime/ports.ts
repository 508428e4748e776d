import { setTimeout as sleep } from 'node:timers/promises'
import type { Ports } from '../lib/context.ts'
import type { Handler } from '../lib/http/mount.ts'

/** What one process opens, and for whom: the endpoint or job that a message names when it cannot be had. */
export interface Opening {
  /** `marks`: only the few kinds of row that reading leaves behind. */
  database: 'anything' | 'marks'
  blobs?: { access: 'write' | 'read'; for: string }
  /** The key of `auth.key_file`. */
  key?: { for: string }
  /** Identity services and issuers are asked, and accounts are made of what they say. */
  identities: boolean
}

/** Ports that are data or this process's own: they open nothing. */
const closed: readonly (keyof Ports)[] = ['limits', 'about', 'rules', 'renderMetrics', 'ready', 'files', 'outgoing', 'retention']
/** What a job opens besides the database, which each of them writes; the blob store unless said otherwise. */
const jobNeeds: Readonly<Record<string, readonly ('blobs' | 'key')[]>> = {
  'advance-epoch': [],
  'prune-journal': [],
  'checkpoint-journal': ['key'],
  'revalidate-identities': ['key'],
}

/** What the endpoints and jobs of one process need opened, by what they declare. */
export function openingOf(handlers: readonly Pick<Handler, 'endpoints'>[], jobs: readonly string[]): Opening {
  const opening: Opening = { database: jobs.length > 0 ? 'anything' : 'marks', identities: false }
  for (const endpoint of handlers.flatMap(({ endpoints }) => endpoints)) {
    const name = `${endpoint.methods[0]} ${endpoint.path}`
    const writes = endpoint.writes !== 'marks' && endpoint.needs.some((need) => !closed.includes(need))
    if (writes) opening.database = 'anything'
    if (endpoint.needs.includes('blobs') && (!opening.blobs || (writes && opening.blobs.access === 'read')))
      opening.blobs = { access: writes ? 'write' : 'read', for: name }
    if (endpoint.needs.includes('tokens')) opening.key ??= { for: name }
    if (endpoint.needs.includes('logins')) opening.identities = true
  }
  for (const job of jobs) {
    const needs = jobNeeds[job] ?? ['blobs']
    if (needs.includes('blobs') && opening.blobs?.access !== 'write') opening.blobs = { access: 'write', for: `the job ${job}` }
    if (needs.includes('key')) opening.key ??= { for: `the job ${job}` }
  }
  if (opening.key) opening.identities = true
  return opening
}

/** Says who needs what could not be had. Errors: those of `open`, with that. */
export async function openFor<T>(needer: string, open: () => T | Promise<T>): Promise<T> {
  try {
    return await open()
  } catch (error) {
    throw new Error(`${(error as Error).message} (needed here for ${needer})`, { cause: error })
  }
}

/** Stands for a port that this process does not have: nothing that it mounts declared it. */
export function unopened<T extends object>(port: string): T {
  return new Proxy({} as T, {
    get(_target, member) {
      throw new Error(`${port}.${String(member)}: nothing that this process mounts has declared that it needs ${port}`)
    },
  })
}

/** How long a process that only reads waits for one that makes what it reads. */
const patienceMs = 60_000

/**
 * Waits until `look` finds what another process makes (it answers what is missing, or undefined), for a minute.
 * Errors: a plain Error that says what is still missing; those of `look`.
 */
export async function untilMade(look: () => Promise<string | undefined>, onWait: (missing: string) => void): Promise<void> {
  const until = Date.now() + patienceMs
  for (let told = false; ; ) {
    const missing = await look()
    if (missing === undefined) return
    if (Date.now() > until)
      throw new Error(
        `${missing}: start a process that writes it (mount all, push, auth, admin or jobs) with the same configuration`,
      )
    if (!told) onWait(missing)
    told = true
    await sleep(200)
  }
}
