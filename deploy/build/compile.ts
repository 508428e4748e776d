// Keeps what a start compiles, by serving once: dist/compiled, where Node writes when the process ends, and the same for the executable.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Errors: a plain Error where the program does not start, with what it said. */
export async function fillCompiled(): Promise<void> {
  rmSync('dist/compiled', { recursive: true, force: true })
  await serveOnce(['dist/mcr.cjs'], async (child, ended) => {
    // A second signal ends it at once.
    const ends = setInterval(() => child.kill('SIGTERM'), 5)
    await ended
    clearInterval(ends)
  })
}

/** What V8 compiled of the executable's program until its first answer, into a file. Errors: as above. */
export async function compileExecutable(program: string, addon: string, output: string): Promise<void> {
  await serveOnce(['--random-seed=1', 'deploy/build/compile-executable.cjs', program, addon, output], async (child, ended) => {
    child.kill('SIGUSR2')
    const [code] = await ended
    if (code !== 0) throw new Error(`compile-executable.cjs ended with ${code}`)
  })
}

/** Starts the program on an empty directory, and hands it over when it has answered one request. */
async function serveOnce(
  args: readonly string[],
  use: (child: ChildProcess, ended: Promise<unknown[]>) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'mcr-build-'))
  const socketPath = join(dir, 'socket')
  const child = spawn(process.execPath, [...args, 'serve'], {
    env: {
      MCR_SERVER_LISTEN_ADDR: `unix:${socketPath}`,
      MCR_STORAGE_ROOT: join(dir, 'data'),
      MCR_STORAGE_BALLAST: '0',
      MCR_NATIVE_DIR: join(dir, 'native'),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text: Buffer) => (said += text))
  const ended = once(child, 'exit')
  while (!(await answers(socketPath))) {
    if (child.exitCode !== null) throw new Error(`the program that was built does not start:\n${said}`)
    await sleep(20)
  }
  await use(child, ended)
  rmSync(dir, { recursive: true, force: true })
}

async function answers(socketPath: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const request = get({ socketPath, path: '/v2/', headers: { host: 'localhost', connection: 'close' } }, (response) => {
      response.resume().on('end', () => resolve(true))
    })
    request.once('error', () => resolve(false))
  })
}
