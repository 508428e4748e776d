import type { LogEvent } from '../lib/observe/log.ts'
import type { Gauges } from './metrics.ts'

const lookMs = 10_000
/** What tokens tolerate; smaller steps are how clocks are set right. */
const leapMs = 30_000

export interface ClockWatch {
  /** Whether the wall clock went at the pace of the monotonic one since the process began. */
  steady(): boolean
  gauges: Gauges
  stop(): void
}

/**
 * Watches the wall clock by the monotonic one, which nobody sets. No safety rests on the wall clock; what goes by it (when tokens end, how
 * long the journal is kept) is told when it leaps. Log event: `clock_leapt`. A clock that was wrong already at the start is not seen.
 */
export function watchClock(log: (event: LogEvent) => void): ClockWatch {
  const offset = () => Date.now() - performance.now()
  const began = offset()
  let last = began
  let leaps = 0
  const look = () => {
    const now = offset()
    if (Math.abs(now - last) > leapMs) {
      leaps++
      log({
        level: 'error',
        event: 'clock_leapt',
        seconds: Math.round((now - last) / 1000),
        hint: 'the journal is not pruned until this process starts again',
      })
    }
    last = now
  }
  const timer = setInterval(look, lookMs).unref()
  return {
    steady() {
      look()
      return leaps === 0
    },
    gauges: {
      clock_leaps: { help: 'Times that the wall clock leapt since the start.', joined: 'max', value: () => leaps },
      clock_offset_seconds: {
        help: 'How far the wall clock has gone from the monotonic one since the start.',
        joined: 'max',
        value: () => (offset() - began) / 1000,
      },
    },
    stop: () => clearInterval(timer),
  }
}
