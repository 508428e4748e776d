import { countedMost, type QueueState, queueState } from '../lib/metadata/garbage-queue.ts'
import type { Sql } from '../lib/metadata/sql.ts'
import type { Gauges } from './metrics.ts'

const freshMs = 1_000

/** What waits for garbage collection, for the metrics; asked once for all of a scrape, and once a second however many scrape. */
export function garbageGauges(read: Sql, epochMs: number): Gauges {
  let asked: { at: number; state: Promise<QueueState> } | undefined
  const state = () => {
    if (!asked || performance.now() - asked.at > freshMs) asked = { at: performance.now(), state: queueState(read) }
    return asked.state
  }
  return {
    gc_queue_entries: {
      help: `Candidates that wait for garbage collection; of manifests, links and blobs at most ${countedMost} are counted each.`,
      joined: 'max',
      value: async () => {
        const { manifests, links, blobs } = await state()
        return manifests + links + blobs
      },
    },
    gc_oldest_candidate_seconds: {
      help: 'Observed time since the epoch began in which the oldest candidate was last wanted; 0: none waits.',
      joined: 'max',
      value: async () => {
        const { oldest, epoch, elapsed } = await state()
        return oldest === null ? 0 : Math.max(0, (epoch - oldest) * epochMs + elapsed) / 1000
      },
    },
    gc_trash_entries: {
      help: `Blobs and uploads whose files wait to be removed, counted up to ${countedMost}.`,
      joined: 'max',
      value: async () => (await state()).trash,
    },
  }
}
