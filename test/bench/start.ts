import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { median, startMcr } from './peers.ts'
import { addRepositories, withRows } from './synthetic.ts'

const times = 7

/** Start to first answer: on an empty directory, and with 1,000,000 manifests in 100,000 repositories. */
export async function start(): Promise<void> {
  const empty: number[] = []
  for (let round = 0; round < times; round++) {
    const dir = mkdtempSync(join(tmpdir(), 'bench-start-'))
    empty.push(await firstAnswer(dir))
    rmSync(dir, { recursive: true, force: true })
  }
  console.log(`empty directory: median ${median(empty).toFixed(0)} ms, of ${empty.map((ms) => ms.toFixed(0)).join(' ')}`)

  const mcr = await startMcr()
  await withRows(mcr.dir, (database) => addRepositories(database, 100_000, 10))
  const full: number[] = []
  for (let round = 0; round < times; round++) full.push(await firstAnswer(mcr.dir))
  console.log(
    `1,000,000 manifests, 100,000 repositories: median ${median(full).toFixed(0)} ms, of ${full.map((ms) => ms.toFixed(0)).join(' ')}`,
  )
  await mcr.stop()
}

/**
 * Milliseconds from spawn to a 401 of /v2/, asked every few milliseconds by what costs little: an asker that keeps a processor busy would be
 * measured as well. `look` sees the process then, by its id.
 */
export async function firstAnswer(
  dir: string,
  [file, ...words]: readonly string[] = [process.execPath, 'dist/mcr.cjs'],
  look?: (pid: number) => Promise<void>,
): Promise<number> {
  const port = 20_000 + Math.floor(Math.random() * 20_000)
  const started = performance.now()
  const child = spawn(file as string, [...words, 'serve'], {
    stdio: 'ignore',
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      MCR_STORAGE_ROOT: dir,
      MCR_SERVER_LISTEN_ADDR: `127.0.0.1:${port}`,
      MCR_LOG_LEVEL: 'error',
    },
  })
  try {
    for (;;) {
      if (child.exitCode !== null) throw new Error(`the registry ended with ${child.exitCode}`)
      if ((await firstLine(port)).startsWith('HTTP/1.1 401')) {
        const ms = performance.now() - started
        await look?.(child.pid as number)
        return ms
      }
      await new Promise((resolve) => setTimeout(resolve, 3))
    }
  } finally {
    child.kill('SIGKILL')
    await new Promise((resolve) => child.once('exit', resolve))
  }
}

/** The first line that a server on that port answers; empty where nobody listens. */
async function firstLine(port: number): Promise<string> {
  return await new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n'))
    socket.once('data', (bytes) => {
      socket.destroy()
      resolve(bytes.toString('latin1').split('\r\n')[0] as string)
    })
    socket.once('error', () => resolve(''))
    socket.once('close', () => resolve(''))
  })
}
