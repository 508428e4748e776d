import type { McSource } from '../lib/auth/identities.ts'
import { advanceEpoch } from '../lib/jobs/advance-epoch.ts'
import { collectGarbageJob } from '../lib/jobs/collect-garbage.ts'
import { expireUploads } from '../lib/jobs/expire-uploads.ts'
import type { Job } from '../lib/jobs/job.ts'
import { pruneJournal } from '../lib/jobs/prune-journal.ts'
import { reapTrash } from '../lib/jobs/reap-trash.ts'
import type { Retention } from '../lib/jobs/retention.ts'
import { revalidateIdentities } from '../lib/jobs/revalidate-identities.ts'
import { scrub } from '../lib/jobs/scrub.ts'
import { checkpointJournal } from '../lib/journal/checkpoint.ts'
import type { ClockWatch } from './clock.ts'
import type { Config } from './config.ts'
import { keepBallast, type Space } from './space.ts'

/** Every job of the registry, as the configuration wants it; `busy` says whether a request runs in this process. */
export function jobsOf(
  config: Pick<Config, 'storage' | 'audit'>,
  parts: {
    retention: Retention
    secret: Uint8Array<ArrayBuffer> | undefined
    mcias: McSource | undefined
    space: Space
    clock: ClockWatch
    busy: () => boolean
  },
): Job[] {
  const { gcIntervalMs, scrubCycleMs, scrubBytesPerSecond } = config.storage
  return [
    advanceEpoch(parts.retention),
    expireUploads,
    reapTrash,
    collectGarbageJob({ intervalMs: gcIntervalMs }),
    scrub({ cycleMs: scrubCycleMs, bytesPerSecond: scrubBytesPerSecond, busy: parts.busy }),
    checkpointJournal(parts.secret),
    pruneJournal({ ...config.audit, clockIsSteady: parts.clock.steady }),
    revalidateIdentities(parts.mcias),
    keepBallast(parts.space),
  ]
}

/** The jobs of those names. Errors: a plain Error for a name that none has. */
export function selectJobs(known: readonly Job[], names: readonly string[]): Job[] {
  for (const name of names)
    if (!known.some((job) => job.name === name))
      throw new Error(`no job is called ${name}; there are ${known.map((job) => job.name).join(', ')}`)
  return known.filter((job) => names.includes(job.name))
}
