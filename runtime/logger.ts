import { isatty } from 'node:tty'
import pino from 'pino'
import type { Exchange } from '../lib/context.ts'
import type { LogEvent } from '../lib/observe/log.ts'
import type { RequestEnd } from './server.ts'

export interface Logger {
  log(event: LogEvent): void
  request(exchange: Exchange, end: RequestEnd): void
}

/** Probes and scrapes: they would drown everything else. */
const quiet = new Set(['GET /livez', 'GET /readyz', 'GET /metrics'])

/**
 * One JSON line an event and one a request; on a terminal, or when asked, lines a person reads. Values come from clients, so they are
 * bounded and their control characters are escaped by JSON; nothing that is a secret is ever handed in. `worker` stands in each line.
 */
export async function createLogger(
  options: { level: string; format: 'auto' | 'json' | 'pretty' },
  worker?: number,
): Promise<Logger> {
  const isTerminal = isatty(1)
  const asPretty = options.format === 'pretty' || (options.format === 'auto' && isTerminal)
  const base = {
    level: options.level,
    base: worker === undefined ? undefined : { worker },
    timestamp: pino.stdTimeFunctions.isoTime,
    messageKey: 'event',
  }
  const logger = asPretty
    ? pino(
        base,
        (await import('pino-pretty')).default({
          colorize: isTerminal,
          sync: true,
          messageKey: 'event',
          translateTime: 'SYS:HH:MM:ss',
          singleLine: true,
        }),
      )
    : pino({ ...base, formatters: { level: (level) => ({ level }) } }, destination())
  return {
    log({ level, event, ...fields }) {
      logger[level](fields, event)
    },
    request(exchange, end) {
      const failed = end.status >= 500
      const level = failed ? 'error' : quiet.has(exchange.endpoint ?? '') ? 'debug' : 'info'
      if (!logger.isLevelEnabled(level)) return
      logger[level](
        {
          id: exchange.id,
          method: end.method,
          path: cap(end.target),
          status: end.status,
          bytes: end.bytesOut,
          ms: Math.round(end.ms * 100) / 100,
          endpoint: exchange.endpoint,
          principal: exchange.principal,
          repository: exchange.repository && cap(exchange.repository),
          action: exchange.action,
          address: exchange.address,
          agent: end.userAgent && cap(end.userAgent),
          protocol: end.protocol,
          code: exchange.errorCode,
          aborted: end.aborted || undefined,
          cause: failed && exchange.cause ? causeOf(exchange.cause) : undefined,
        },
        'request',
      )
    },
  }
}

/** Whatever waits when the reader of the log stalls is bounded by this, then lines are dropped: a full pipe must not stop the registry. */
const waitingBytes = 16 * 1024 * 1024

function destination(): pino.DestinationStream {
  const out = pino.destination({ fd: 1, sync: false, maxLength: waitingBytes })
  process.on('exit', () => {
    try {
      out.flushSync()
    } catch {
      // The reader is gone or stalls; the process ends all the same.
    }
  })
  return out
}

const cap = (text: string) => (text.length > 512 ? `${text.slice(0, 512)}…` : text)

function causeOf(cause: unknown): string {
  const text = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)
  return text.slice(0, 4000)
}
