import { Counter, Gauge, Registry } from 'prom-client'
import { addUp, type MetricSnapshot } from './metrics.ts'

/**
 * What a parent knows of its workers' numbers. Counts of a worker that has ended stay in the sum as they were last seen: a total that
 * went down would look like a restart of the whole registry, and a rate over it like a burst.
 */
export function createWorkerMetrics(serving: () => number): {
  ended(last: MetricSnapshot, how: string): void
  /** What there is to add up: the workers' numbers, those of the ended, and the parent's own. */
  all(workers: readonly MetricSnapshot[]): Promise<readonly MetricSnapshot[]>
} {
  const register = new Registry()
  new Gauge({
    name: 'mcr_workers',
    help: 'Workers that serve.',
    registers: [register],
    collect() {
      this.set(serving())
    },
  })
  const ends = new Counter({
    name: 'mcr_worker_ends_total',
    help: 'Workers that ended, by exit code or signal.',
    labelNames: ['how'],
    registers: [register],
  })
  let past: Promise<MetricSnapshot> = Promise.resolve([])
  return {
    ended(last, how) {
      ends.inc({ how })
      const counts = last.filter(({ type }) => ['counter', 'histogram'].includes(String(type)))
      past = past.then((before) => addUp([before, counts]))
    },
    async all(workers) {
      return [...workers, await past, await register.getMetricsAsJSON()].filter((snapshot) => snapshot.length > 0)
    },
  }
}
