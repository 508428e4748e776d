import type { MetricSnapshot } from './metrics.ts'

/** Where a worker serves: what it tells its parent when it does. */
export interface Serving {
  version: string
  url: string
  port: number
  grpcPort?: number
  adminPort?: number
  /** Set on a first start that made the admin. */
  admin?: { name: string; password?: string; file?: string }
}

/** What passes between a parent and its workers, as JSON: the two may be of different versions, so fields are only ever added. */
export type ToParent =
  | ({ type: 'ready' } & Serving)
  | { type: 'gather'; id: number }
  | { type: 'measured'; id: number; metrics: MetricSnapshot }
export type ToWorker =
  | { type: 'drain' }
  | { type: 'measure'; id: number }
  | { type: 'gathered'; id: number; metrics: readonly MetricSnapshot[] }

/** This process's place among workers. */
export interface Worker {
  number: number
  ready(serving: Serving): void
  /** Answers the parent's questions for this process's numbers, which are also how it sees that the process is alive. */
  measures(read: () => Promise<MetricSnapshot>): void
  /** The numbers of all workers, and of those that have ended. */
  gather(): Promise<readonly MetricSnapshot[]>
  /** Calls back when the parent says to drain, and when the parent is gone. Before this is called it ends the process. */
  onEnd(told: (reason: string) => void): void
  /** Gives the parent this process's last numbers. */
  farewell(): Promise<void>
}

/** The variable by which a parent tells a child that it is a worker, and which. */
export const workerVariable = 'MCR_WORKER'

/** The worker that this process is; undefined where it was not started as one. */
export function joinParent(): Worker | undefined {
  const number = Number(process.env[workerVariable])
  if (!process.send || !process.connected || !Number.isInteger(number) || number < 1) return undefined
  const send = (message: ToParent) => {
    if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
  }
  const waiting = new Map<number, (metrics: readonly MetricSnapshot[]) => void>()
  let asked = 0
  let read: (() => Promise<MetricSnapshot>) | undefined
  let told: ((reason: string) => void) | undefined
  const end = (reason: string) => {
    // What does not serve yet has nothing to drain.
    if (!told) process.exit(0)
    told(reason)
  }
  process.on('message', (message: ToWorker) => {
    if (message.type === 'drain') end('parent')
    else if (message.type === 'measure')
      void (read?.() ?? Promise.resolve([])).then((metrics) => send({ type: 'measured', id: message.id, metrics }))
    else if (message.type === 'gathered') {
      waiting.get(message.id)?.(message.metrics)
      waiting.delete(message.id)
    }
  })
  process.once('disconnect', () => {
    for (const answer of waiting.values()) answer([])
    end('parent gone')
  })
  return {
    number,
    ready: (serving) => send({ type: 'ready', ...serving }),
    measures(reader) {
      read = reader
    },
    async gather() {
      if (!process.connected) return []
      const id = ++asked
      return await new Promise((resolve) => {
        waiting.set(id, resolve)
        send({ type: 'gather', id })
      })
    },
    onEnd(callback) {
      told = callback
    },
    async farewell() {
      const metrics = (await read?.()) ?? []
      await new Promise<void>((resolve) => {
        if (process.connected) process.send?.({ type: 'measured', id: 0, metrics }, undefined, undefined, () => resolve())
        else resolve()
      })
    },
  }
}
