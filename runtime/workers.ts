import { type ChildProcess, spawn } from 'node:child_process'
import { isSea } from 'node:sea'
import type { Config } from './config.ts'
import type { Logger } from './logger.ts'
import type { MetricSnapshot } from './metrics.ts'
import { type HeldSocket, handingOn, holdSocket, type InheritedSocket, listenerOf } from './sockets.ts'
import { type Serving, type ToParent, type ToWorker, workerVariable } from './worker.ts'
import { createWorkerMetrics } from './worker-metrics.ts'

/** A worker that lived as long has started well, and its end is a new accident. */
const settledMs = 10_000
/** Ends of unsettled workers in a row, with none serving, after which a supervisor of ours shall see it. */
const hopeless = 6
const longestWaitMs = 30_000
/** Every so often each worker is asked for its numbers; one that has left so many asks in a row unanswered, a minute's, hangs. */
const askEveryMs = 10_000
const unansweredMost = 6
/** What a worker may take beyond server.shutdown_timeout until it is killed. */
const marginMs = 5_000

interface Worker {
  number: number
  child: ChildProcess
  /** By the clock that never leaps, ms. */
  startedAt: number
  /** Asks in a row. A count and no time: a leap of the clock, or a machine that slept, is no silence. */
  unanswered: number
  serving?: Serving
  /** Told to drain, or not yet taken on: its end is no accident. */
  leaving: boolean
  numbers: MetricSnapshot
}

/**
 * The parent of workers: holds the listening sockets, which it never accepts from and never lets go, and keeps `config.server.workers`
 * processes serving them. It opens neither database nor blobs, so nothing it does can hurt them. SIGTERM and SIGINT drain all, and a
 * second one kills them; SIGHUP puts a new process of the program as it now is on disk in the place of each, one after another, the old
 * one draining when the new one serves. `greet` is told once, when all serve.
 * Ends the process: 0 when told, else with the code of workers that cannot start.
 */
export async function superviseWorkers(
  config: Config,
  inherited: readonly InheritedSocket[],
  servesRpc: boolean,
  logger: Logger,
  greet: (serving: Serving) => void,
): Promise<void> {
  const count = config.server.workers ?? 1
  const held = await holdSockets(config, inherited, servesRpc)
  const sockets: readonly InheritedSocket[] = [...inherited, ...held]
  const workers = new Set<Worker>()
  const metrics = createWorkerMetrics(() => [...workers].filter((worker) => worker.serving !== undefined).length)
  let failures = 0
  let stopping = false
  let asked = 0

  const tell = (worker: Worker, message: ToWorker) => {
    if (worker.child.connected) worker.child.send(message, () => undefined)
  }

  /** Starts a process in a worker's place. Resolves when it serves; rejects where it ends before. */
  function start(number: number, how: 'kept' | 'on trial'): Promise<Worker> {
    const child = spawnWorker(number, sockets)
    const startedAt = performance.now()
    const worker: Worker = { number, child, startedAt, unanswered: 0, leaving: how === 'on trial', numbers: [] }
    workers.add(worker)
    return new Promise((resolve, reject) => {
      child.on('message', (message: ToParent) => {
        if (message.type === 'ready') {
          worker.serving = message
          resolve(worker)
        } else if (message.type === 'measured') {
          worker.unanswered = 0
          worker.numbers = message.metrics
        } else if (message.type === 'gather')
          void gather().then((all) => tell(worker, { type: 'gathered', id: message.id, metrics: all }))
      })
      const over = (code: number | null, signal: NodeJS.Signals | null, why: string = signal ?? `code ${code}`) => {
        workers.delete(worker)
        metrics.ended(worker.numbers, why)
        reject(Object.assign(new Error(`worker ${number} ended before it served: ${why}`), { code: code ?? 1 }))
        if (!stopping) ended(worker, code, why)
      }
      child.once('exit', over)
      child.once('error', (error) => {
        // One that could not be started at all has no exit.
        if (child.pid === undefined) over(null, null, error.message)
      })
    })
  }

  function ended({ number, child, leaving, startedAt }: Worker, code: number | null, why: string): void {
    logger.log({ level: code === 0 ? 'info' : 'error', event: 'worker_ended', worker: number, pid: child.pid, why })
    if (leaving) return
    failures = performance.now() - startedAt < settledMs ? failures + 1 : 1
    if (failures >= hopeless && ![...workers].some(({ serving }) => serving)) {
      logger.log({ level: 'error', event: 'workers_failed', attempts: failures, hint: 'see what the workers said' })
      process.exit(code ?? 1)
    }
    setTimeout(() => void keep(number), Math.min(longestWaitMs, 100 * 2 ** (failures - 1)))
  }

  async function keep(number: number): Promise<void> {
    // It may have been replaced while it was waited for.
    if (stopping || [...workers].some((worker) => worker.number === number && (!worker.leaving || !worker.serving))) return
    await start(number, 'kept').then(announce, () => undefined)
  }

  const announce = ({ number, child, startedAt, serving }: Worker) =>
    logger.log({
      level: 'info',
      event: 'worker_serves',
      worker: number,
      version: serving?.version,
      pid: child.pid,
      ms: Math.round(performance.now() - startedAt),
    })

  async function gather(): Promise<readonly MetricSnapshot[]> {
    const id = ++asked
    await Promise.all([...workers].filter(({ serving }) => serving).map((worker) => answerOf(worker, id)))
    return await metrics.all([...workers].map(({ numbers }) => numbers))
  }

  /** Waits for a worker's numbers, but not for one that is busy or ending: its last ones count. */
  function answerOf(worker: Worker, id: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        worker.child.off('message', heard).off('exit', done)
        resolve()
      }
      const heard = (message: ToParent) => {
        if (message.type === 'measured' && message.id === id) done()
      }
      const timer = setTimeout(done, 1_000)
      worker.child.on('message', heard).once('exit', done)
      tell(worker, { type: 'measure', id })
    })
  }

  const watch = setInterval(() => {
    for (const worker of workers) {
      if (!worker.serving) continue
      if (worker.unanswered >= unansweredMost) {
        logger.log({ level: 'error', event: 'worker_hung', worker: worker.number, pid: worker.child.pid })
        worker.child.kill('SIGKILL')
        continue
      }
      worker.unanswered++
      tell(worker, { type: 'measure', id: ++asked })
    }
  }, askEveryMs).unref()

  /** One at a time, and none before all serve: what is asked meanwhile comes after. */
  let reloads: 'not yet' | 'idle' | 'running' = 'not yet'
  let reloadAsked = false
  async function reloadWhileAsked(): Promise<void> {
    if (!reloadAsked || reloads === 'running') return
    reloads = 'running'
    while (reloadAsked && !stopping) {
      reloadAsked = false
      await reload()
    }
    reloads = 'idle'
  }
  async function reload(): Promise<void> {
    logger.log({ level: 'info', event: 'workers_replaced', state: 'begun' })
    for (let number = 1; number <= count && !stopping; number++) {
      const old = [...workers].filter((worker) => worker.number === number && !worker.leaving)
      try {
        const worker = await start(number, 'on trial')
        if (stopping) return
        worker.leaving = false
        announce(worker)
      } catch (error) {
        const hint = 'the old workers go on serving; mend it and send SIGHUP again'
        logger.log({ level: 'error', event: 'workers_replaced', state: 'given up', worker: number, error: String(error), hint })
        // The old one may have died meanwhile, when its place was taken by the one that failed.
        void keep(number)
        return
      }
      for (const worker of old) leave(worker)
    }
    logger.log({ level: 'info', event: 'workers_replaced', state: 'done' })
  }

  function leave(worker: Worker): void {
    worker.leaving = true
    tell(worker, { type: 'drain' })
    const kill = setTimeout(() => worker.child.kill('SIGKILL'), config.server.shutdownTimeoutMs + marginMs)
    worker.child.once('exit', () => clearTimeout(kill))
  }

  const stop = (signal: NodeJS.Signals) => {
    if (stopping) for (const { child } of workers) child.kill('SIGKILL')
    if (stopping) return
    stopping = true
    logger.log({ level: 'info', event: 'draining', signal, seconds: config.server.shutdownTimeoutMs / 1000 })
    void stopAll()
  }
  async function stopAll(): Promise<void> {
    clearInterval(watch)
    const gone = [...workers].map(({ child }) => new Promise((resolve) => child.once('exit', resolve)))
    for (const worker of workers) leave(worker)
    await Promise.all(gone)
    for (const socket of held) socket.close()
    logger.log({ level: 'info', event: 'stopped' })
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  process.on('SIGHUP', () => {
    reloadAsked = true
    if (reloads === 'idle') void reloadWhileAsked()
  })

  // The first one alone: it migrates the database and makes what a first start needs. Where it cannot start, none can.
  const first = await start(1, 'on trial').catch(async (error: Error & { code?: number }) => {
    for (const socket of held) socket.close()
    process.exit(stopping ? 0 : (error.code ?? 1))
  })
  first.leaving = false
  announce(first)
  await Promise.all(Array.from({ length: count - 1 }, (_, index) => keep(index + 2)))
  if (stopping) return
  greet(first.serving as Serving)
  reloads = 'idle'
  await reloadWhileAsked()
}

/** The sockets of the configuration's addresses that nobody hands us, under the names that a worker knows them by. */
async function holdSockets({ server }: Config, inherited: readonly InheritedSocket[], servesRpc: boolean): Promise<HeldSocket[]> {
  const held: HeldSocket[] = []
  for (const [name, listen] of [
    ['registry', server.listenAddr],
    ['grpc', servesRpc ? server.grpcAddr : undefined],
    ['admin', server.adminAddr],
  ] as const)
    if (listen !== undefined && !inherited.some((socket) => listenerOf(socket.name) === name))
      held.push(await holdSocket(listen, name))
  return held
}

/** This program with this command line again, as a worker. A single executable is its own program; elsewhere the script is named. */
function spawnWorker(number: number, sockets: readonly InheritedSocket[]): ChildProcess {
  const args = isSea() ? process.argv.slice(2) : [...process.execArgv, ...process.argv.slice(1)]
  return spawn(process.execPath, args, {
    stdio: ['ignore', 'inherit', 'inherit', ...sockets.map(({ fd }) => fd), 'ipc'],
    env: { ...process.env, ...handingOn(sockets), [workerVariable]: String(number) },
  })
}
