import type { Base, Ports } from '../context.ts'

export type JobContext = Base & Pick<Ports, 'metadata' | 'blobs' | 'limits' | 'retention'>

/** What a run did, for the log; counts of things. */
export type JobReport = Record<string, number>

/**
 * Background work: a function of ports and a signal, safe to kill at any await, run by whichever process holds its lease.
 * `everyMs` is how often it runs.
 */
export interface Job {
  name: string
  everyMs: number
  /** `own`: it keeps apart from itself in other processes by rows of its own, and no lease is taken for it. */
  lease?: 'own'
  /** Whether there is anything to do; asked first where taking the lease, a commit, would be too much for each look. */
  due?(ctx: JobContext): Promise<boolean>
  run(ctx: JobContext, signal: AbortSignal): Promise<JobReport>
}

const napMs = 1_000

/** Waits; a stop ends it within a second. */
export async function rest(ms: number, signal: AbortSignal): Promise<void> {
  for (let left = ms; left > 0 && !signal.aborted; left -= napMs)
    await new Promise((resolve) => setTimeout(resolve, Math.min(left, napMs)))
}
