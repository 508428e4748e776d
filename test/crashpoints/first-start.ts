import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../support/ports.ts'
import { killAtExit } from '../support/process.ts'
import type { Run } from '../workload/run.ts'
import { makePlace } from './place.ts'
import { changes, injectKill } from './strace.ts'

const program = new URL('../../dist/mcr.cjs', import.meta.url).pathname

interface Started {
  port: number
  /** Whether it answers; else it has ended. */
  answers: boolean
  /** Ends it and whatever traces it. Shape: what it had printed. */
  kill(): Promise<string>
}

/**
 * First starts, with a certificate of the machine's own: killed before every call that changes the disk, and with `power` on a disk whose
 * power goes then, or when the registry has answered and signed a token. The next start must serve, and let in who has the password that
 * the first one left.  Shape: how many points.
 */
export async function killFirstStarts(within: string, test: Run, kind: 'kill' | 'power'): Promise<number> {
  const { finding, interrupted } = test
  const folder = join(within, 'first-start')
  const disk = makePlace(folder, test, kind)
  const { every = 1, from = 1 } = test.numbers
  let points = 0
  for (const call of [...changes, 'link'] as const)
    for (let nth = from; !interrupted() && test.findings.length === 0; nth += every) {
      // A name of its own: what was removed of the one before may come back with the power.
      const root = join(disk?.path ?? folder, `data-${call}-${nth}`)
      const first = await start(root, injectKill(call, nth))
      const known = first.answers ? passwordOf(root) : undefined
      const status = known === undefined ? 0 : await logIn(first.port, known)
      // 0: killed as it signed its first token.
      const done = first.answers && status !== 0
      if (done && status !== 200) finding(`a first start does not know its own password: ${status}`)
      const said = await first.kill()
      if (done && !disk) break
      disk?.cut()
      disk?.remount()
      points++
      const at = `a first start ${done ? 'answered' : `was killed at ${call} ${nth}`}${disk ? ', and the power went' : ''}`
      test.progress(at)
      const next = await start(root)
      if (!next.answers) finding(`the next start ends after ${at}: ${await next.kill()}; the first had said: ${said}`)
      else {
        const password = passwordOf(root) ?? known
        if (password === undefined) finding(`nobody knows the admin's password after ${at}`)
        else {
          const again = await logIn(next.port, password)
          if (again !== 200) finding(`a login with the admin's password is ${again} after ${at}: ${await next.kill()}`)
        }
        await next.kill()
      }
      rmSync(root, { recursive: true, force: true })
      if (done) break
    }
  return points
}

async function start(root: string, under: readonly string[] = []): Promise<Started> {
  const port = await freePort()
  const child = spawn('/usr/bin/env', [...under, process.execPath, program, 'serve', '--tls', 'self-signed'], {
    env: {
      PATH: process.env.PATH,
      MCR_STORAGE_ROOT: root,
      MCR_STORAGE_FREE_FLOOR: '0',
      MCR_STORAGE_BALLAST: '0',
      MCR_SERVER_LISTEN_ADDR: `127.0.0.1:${port}`,
      // Calls are counted by thread.
      UV_THREADPOOL_SIZE: '1',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  killAtExit(child)
  const pieces: Buffer[] = []
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece: Buffer) => pieces.push(piece))
  // Of the program as well as of what traces it.
  const closed = once(child, 'close')
  while (!hasEnded(child) && (await ask(port, '/v2/')) !== 401) await sleep(20)
  return {
    port,
    answers: !hasEnded(child),
    async kill() {
      try {
        process.kill(-(child.pid as number), 'SIGKILL')
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
      }
      await closed
      return `${Buffer.concat(pieces)}`
    },
  }
}

const hasEnded = ({ exitCode, signalCode }: ChildProcess) => exitCode !== null || signalCode !== null

function passwordOf(root: string): string | undefined {
  const file = join(root, 'admin-password')
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined
}

/** The status of a request for a token: it needs the password, the key that seals, and the key that signs. */
const logIn = async (port: number, password: string) =>
  await ask(port, '/v2/token?scope=repository:first/app:pull', `Basic ${btoa(`admin:${password}`)}`)

/** The status of an answer; 0 where there is none. */
async function ask(port: number, path: string, authorization?: string): Promise<number> {
  return await new Promise((resolve) => {
    const headers = authorization === undefined ? {} : { authorization }
    const asked = request({ host: '127.0.0.1', port, path, headers, agent: false, rejectUnauthorized: false }, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    asked.on('error', () => resolve(0))
    asked.end()
  })
}
