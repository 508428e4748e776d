import { setTimeout as sleep } from 'node:timers/promises'
import type { Job, JobContext } from '../lib/jobs/job.ts'
import type { MetadataStore } from '../lib/metadata/sql.ts'

const leaseMs = 120_000

/**
 * Runs jobs at their pace, each in one process at a time by a lease in the database. Shape: a function that stops them and waits.
 * A job that fails is logged and tried again at its next time.
 */
export function startJobs(jobs: readonly Job[], ctx: JobContext, holder: string): () => Promise<void> {
  const stop = new AbortController()
  const loops = jobs.map(async (job) => {
    // Spread over the first seconds, so that starting is not slowed by tidying.
    let wait = Math.min(job.everyMs, 2_000 + Math.random() * 3_000)
    for (;;) {
      try {
        await sleep(wait, undefined, { signal: stop.signal, ref: false })
      } catch {
        return
      }
      wait = job.everyMs
      await runOnce(job, ctx, holder, stop.signal)
    }
  })
  return async () => {
    stop.abort()
    await Promise.all(loops)
  }
}

async function runOnce(job: Job, ctx: JobContext, holder: string, signal: AbortSignal): Promise<void> {
  let renewing: NodeJS.Timeout | undefined
  try {
    if (job.due && !(await job.due(ctx))) return
    if (job.lease !== 'own' && !(await takeLease(ctx.metadata, job.name, holder, ctx.now()))) return
    // One that takes longer than its lease, such as the look at a large file, is still this process's.
    if (job.lease !== 'own')
      renewing = setInterval(() => {
        takeLease(ctx.metadata, job.name, holder, ctx.now()).catch((error) =>
          ctx.log({ level: 'warn', event: 'lease_not_renewed', job: job.name, error: String(error) }),
        )
      }, leaseMs / 3).unref()
    const report = await job.run(ctx, signal)
    ctx.count('jobs_total', { job: job.name, result: 'ok' })
    if (Object.values(report).some((count) => count > 0)) ctx.log({ level: 'info', event: 'job', job: job.name, ...report })
  } catch (error) {
    ctx.count('jobs_total', { job: job.name, result: 'failed' })
    ctx.log({ level: 'error', event: 'job_failed', job: job.name, error: String(error) })
  } finally {
    clearInterval(renewing)
  }
}

/** Takes or renews a lease by compare-and-set. Shape: whether this holder has it now. */
async function takeLease(store: MetadataStore, name: string, holder: string, now: number): Promise<boolean> {
  const [lease] = await store.read.all<{ holder: string; expires: number }>(
    'SELECT holder, expires_at AS expires FROM leases WHERE name = ?',
    [name],
  )
  // One that ends later than any can was taken by a clock that leapt.
  if (lease && lease.holder !== holder && lease.expires > now && lease.expires <= now + leaseMs) return false
  return await store.write(
    async (sql) =>
      (await sql.run(
        `INSERT INTO leases(name, holder, beat, expires_at) VALUES (?, ?, 1, ?)
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, beat = beat + 1, expires_at = excluded.expires_at
         WHERE holder = excluded.holder OR expires_at <= ? OR expires_at > excluded.expires_at`,
        [name, holder, now + leaseMs, now],
      )) > 0,
  )
}
