import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Machine } from './machine.ts'

/** A load that never asks twice: what goes wrong once has gone wrong. */
export interface Load {
  /** Requests that were answered as they should be, so far. */
  answered(): number
  /** Waits until there are as many. Errors: where they do not come. */
  more(count: number): Promise<void>
  stop(): Promise<{ answered: number; failures: readonly string[] }>
}

export interface LoadOptions {
  /** `host:port` of the registry. */
  address: string
  password: string
  /** First part of its repositories, of its own where there are several. */
  name?: string
  /** The authority to trust, in PEM; plain HTTP without one. */
  ca?: string
}

export type LoadReport = { answered: number; failures: readonly string[] }

/** Pushes in several requests, pulls and pings, on kept and on new connections, in the network of a machine until it is stopped. */
export async function startLoad(machine: Pick<Machine, 'inNetwork'>, options: LoadOptions): Promise<Load> {
  const script = new URL('./load-worker.ts', import.meta.url).pathname
  const [file, args] = machine.inNetwork(process.execPath, [script, JSON.stringify(options)])
  const child = fork(script, [], {
    execPath: file,
    execArgv: args.slice(0, args.indexOf(script)),
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, MCR_LOAD: JSON.stringify(options) },
  })
  const kill = () => child.kill('SIGKILL')
  process.once('exit', kill)
  let report: LoadReport = { answered: 0, failures: [] }
  child.on('message', (message: LoadReport) => {
    report = message
  })
  return {
    answered: () => report.answered,
    async more(count) {
      for (let waited = 0; report.answered < count; waited++) {
        if (report.failures.length > 0) throw new Error(report.failures.join('\n'))
        if (waited > 1_200 || child.exitCode !== null)
          throw new Error(`${report.answered} requests were answered, ${count} should be`)
        await sleep(50)
      }
    },
    async stop() {
      child.send('stop')
      if (child.exitCode === null) await once(child, 'exit')
      process.off('exit', kill)
      return report
    },
  }
}
