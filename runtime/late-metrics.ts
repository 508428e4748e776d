import type { createMetrics, Metrics } from './metrics.ts'

/** The library is loaded so long after the start, or when it is first asked for numbers: a start does not wait for it. */
const loadAfterMs = 300

/** As createMetrics; what happens before its library is loaded is counted then. */
export function lateMetrics(...made: Parameters<typeof createMetrics>): Metrics {
  const early: ((metrics: Metrics) => void)[] = []
  let loaded: Metrics | undefined
  let loading: Promise<Metrics> | undefined
  const load = async (): Promise<Metrics> => {
    const { createMetrics } = await import('./metrics.ts')
    loaded = createMetrics(...made)
    for (const happened of early.splice(0)) happened(loaded)
    return loaded
  }
  const metrics = () => {
    loading ??= load()
    return loading
  }
  setTimeout(metrics, loadAfterMs).unref()
  const happens = (what: (metrics: Metrics) => void) => void (loaded ? what(loaded) : early.push(what))
  return {
    count: (...counted) => happens(({ count }) => count(...counted)),
    observe: (...observed) => happens(({ observe }) => observe(...observed)),
    render: async () => (await metrics()).render(),
    snapshot: async () => (await metrics()).snapshot(),
  }
}
