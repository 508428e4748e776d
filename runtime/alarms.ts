import type { LogEvent } from '../lib/observe/log.ts'
import type { MetricName } from '../lib/observe/metrics.ts'

/** A bound of the process that was reached: counted by its name each time, logged once a minute with how often it was since. */
export type Alarm = (limit: string, fields?: Record<string, unknown>) => void

const quietMs = 60_000

/** The alarm of a process. Log event: `limit_reached`; metric: `mcr_limits_reached_total`. */
export function createAlarm(
  log: (event: LogEvent) => void,
  count: (metric: MetricName, labels: Record<string, string>) => void,
): Alarm {
  const last = new Map<string, { at: number; since: number }>()
  return (limit, fields = {}) => {
    count('limits_reached_total', { limit })
    const now = performance.now()
    const known = last.get(limit)
    if (known && now - known.at < quietMs) {
      known.since++
      return
    }
    log({ level: 'warn', event: 'limit_reached', limit, times: (known?.since ?? 0) + 1, ...fields })
    last.set(limit, { at: now, since: 0 })
  }
}
