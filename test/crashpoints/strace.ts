import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { findTool } from '../support/process.ts'

/** What changes a disk, as the registry and its database call it. */
export const changes = ['pwrite64', 'pwritev', 'fsync', 'fdatasync', 'fchmod', 'rename', 'unlink', 'ftruncate', 'mkdir'] as const

/** What goes before a command whose threads are killed before each makes that call for the nth time. */
export const injectKill = (call: string, nth: number): string[] => [
  ...['strace', '-f', '-qq', '-o', '/dev/null', '-e', `trace=${call}`, '-e', `inject=${call}:signal=SIGKILL:when=${nth}`],
]

/** A trace of a running process and its threads. */
export interface Trace {
  /** Lets the process go on without it; where the process was killed, strace may wait for ever for a thread and is killed too. */
  end(traced: 'alive' | 'killed'): Promise<void>
}

/**
 * Attaches strace with these options. Counters of `inject` are per thread: the pool has one (UV_THREADPOOL_SIZE), and the database is on the
 * main thread.
 */
export async function attach(pid: number, options: readonly string[]): Promise<Trace> {
  const command = findTool('strace')
  if (!command) throw new Error('strace is not installed: .ci/install-clients installs it')
  const child = spawn(command, ['-f', ...options, '-p', String(pid)], {
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  })
  const gone = once(child, 'exit')
  await attached(child, gone)
  return {
    async end(traced) {
      child.kill(traced === 'alive' ? 'SIGINT' : 'SIGKILL')
      await gone
    },
  }
}

async function attached(child: ChildProcess, gone: Promise<unknown>): Promise<void> {
  const said: string[] = []
  const lines = createInterface({ input: child.stderr as NodeJS.ReadableStream })
  const seen = new Promise<true>((resolve) => {
    lines.on('line', (line) => {
      said.push(line)
      if (/attached/.test(line)) resolve(true)
    })
  })
  if ((await Promise.race([seen, gone])) !== true) throw new Error(`strace did not attach: ${said.join('\n')}`)
}

/** One call as it stands in a trace: `began` and `ended` are lines, so what overlapped can be told from what came after. */
export interface Call {
  name: string
  text: string
  began: number
  ended: number
}

/** Reads what `strace -f -o file` wrote, with calls that other threads interrupted put together. */
export function readTrace(path: string): Call[] {
  const calls: Call[] = []
  const open = new Map<string, Call>()
  for (const [index, line] of readFileSync(path, 'utf8').split('\n').entries()) {
    const resumed = /^(\d+) +<\.\.\. (\w+) resumed>(.*)$/.exec(line)
    if (resumed) {
      const call = open.get(`${resumed[1]} ${resumed[2]}`)
      if (call) {
        call.text += resumed[3]
        call.ended = index
      }
      continue
    }
    const whole = /^(\d+) +(\w+)\((.*)$/.exec(line)
    if (!whole) continue
    const call = { name: `${whole[2]}`, text: `${whole[3]}`, began: index, ended: index }
    calls.push(call)
    if (line.includes('<unfinished ...>')) {
      call.ended = Number.POSITIVE_INFINITY
      open.set(`${whole[1]} ${whole[2]}`, call)
    }
  }
  return calls
}
