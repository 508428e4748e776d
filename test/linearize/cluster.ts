import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { listeningPort, password, spawnRegistry } from '../support/process.ts'

/** Several whole registries over one directory, each to be killed, started again, or stopped for a while. */
export interface Cluster {
  url(member: number): string
  /** kill -9, and a new process on the same port */
  kill(member: number): Promise<void>
  /** SIGSTOP for so many ms */
  pause(member: number, ms: number): Promise<void>
  stop(): Promise<void>
}

export async function startCluster(size: number, root: string): Promise<Cluster> {
  const members: { child: ChildProcess; port: number }[] = []
  const start = async (port: number) => {
    const child = spawnRegistry([], {
      MCR_STORAGE_ROOT: root,
      MCR_STORAGE_FREE_FLOOR: '0',
      MCR_AUTH_BOOTSTRAP_PASSWORD: password,
      MCR_SERVER_LISTEN_ADDR: `127.0.0.1:${port}`,
    })
    return { child, port: await listeningPort(child) }
  }
  for (let member = 0; member < size; member++) members.push(await start(0))
  const at = (member: number) => members[member] as { child: ChildProcess; port: number }
  const end = async (child: ChildProcess, signal: NodeJS.Signals) => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }
  return {
    url: (member) => `http://127.0.0.1:${at(member).port}`,
    async kill(member) {
      const { child, port } = at(member)
      await end(child, 'SIGKILL')
      members[member] = await start(port)
    },
    async pause(member, ms) {
      const { child } = at(member)
      child.kill('SIGSTOP')
      await new Promise((resolve) => setTimeout(resolve, ms))
      child.kill('SIGCONT')
    },
    async stop() {
      await Promise.all(members.map(({ child }) => end(child, 'SIGTERM')))
    },
  }
}
