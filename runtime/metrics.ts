import { AggregatorRegistry, Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { type MetricName, metrics } from '../lib/observe/metrics.ts'

export interface Metrics {
  count(metric: MetricName, labels?: Record<string, string>, by?: number): void
  observe(endpoint: string, seconds: number): void
  render(): Promise<string>
  /** This process's numbers alone, to be added up by others. */
  snapshot(): Promise<MetricSnapshot>
}

/** The numbers of a process at one moment, as plain data. */
export type MetricSnapshot = Awaited<ReturnType<Registry['getMetricsAsJSON']>>

/** Numbers of several processes as one: counts are added, what is a state is joined by its own rule. */
export async function addUp(snapshots: readonly MetricSnapshot[]): Promise<MetricSnapshot> {
  return await AggregatorRegistry.aggregate(snapshots as unknown as object[]).getMetricsAsJSON()
}

/** What is asked at each scrape; `joined` says what several workers' values make. What cannot be told then is NaN, and the rest is. */
export type Gauges = Readonly<
  Record<string, { help: string; joined: 'max' | 'min' | 'sum'; value: () => number | Promise<number> }>
>

/** The process's numbers, under `mcr_`; `gather` gives the numbers of all workers where there are several. */
export function createMetrics(version: string, gauges: Gauges, gather?: () => Promise<readonly MetricSnapshot[]>): Metrics {
  const register = new Registry()
  collectDefaultMetrics({ register, prefix: 'mcr_' })
  const counters = new Map<string, Counter>()
  for (const [name, { help, labels }] of Object.entries(metrics))
    counters.set(name, new Counter({ name: `mcr_${name}`, help, labelNames: [...labels], registers: [register] }))
  const durations = new Histogram({
    name: 'mcr_request_duration_seconds',
    help: 'Time from request line to last byte, by endpoint.',
    labelNames: ['endpoint'],
    buckets: [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 600],
    registers: [register],
  })
  for (const [name, { help, joined, value }] of Object.entries(gauges))
    new Gauge({
      name: `mcr_${name}`,
      help,
      aggregator: joined,
      registers: [register],
      async collect() {
        this.set(await Promise.try(value).catch(() => Number.NaN))
      },
    })
  new Gauge({
    name: 'mcr_info',
    help: 'The version that runs.',
    labelNames: ['version'],
    aggregator: 'first',
    registers: [register],
  }).set({ version }, 1)
  return {
    count: (metric, labels, by = 1) => counters.get(metric)?.inc(labels ?? {}, by),
    observe: (endpoint, seconds) => durations.observe({ endpoint }, seconds),
    async render() {
      const all = (await gather?.()) ?? []
      return await (all.length > 0 ? AggregatorRegistry.aggregate(all as unknown as object[]) : register).metrics()
    },
    snapshot: () => register.getMetricsAsJSON(),
  }
}
