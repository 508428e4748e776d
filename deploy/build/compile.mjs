// Fills dist/compiled by serving once, so that all a start runs is in it; Node writes there when the process ends.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Errors: a plain Error where the program does not start, with what it said. */
export async function fillCompiled() {
  rmSync('dist/compiled', { recursive: true, force: true })
  const dir = mkdtempSync(join(tmpdir(), 'mcr-build-'))
  const socketPath = join(dir, 'socket')
  const child = spawn(process.execPath, ['dist/mcr.cjs', 'serve'], {
    env: { MCR_SERVER_LISTEN_ADDR: `unix:${socketPath}`, MCR_STORAGE_ROOT: join(dir, 'data'), MCR_STORAGE_BALLAST: '0' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += text))
  const ended = once(child, 'exit')
  while (!(await answers(socketPath))) {
    if (child.exitCode !== null) throw new Error(`the program that was built does not start:\n${said}`)
    await sleep(20)
  }
  // A second signal ends it at once.
  const ends = setInterval(() => child.kill('SIGTERM'), 5)
  await ended
  clearInterval(ends)
  rmSync(dir, { recursive: true, force: true })
}

async function answers(socketPath) {
  return await new Promise((resolve) => {
    const request = get({ socketPath, path: '/v2/', headers: { host: 'localhost', connection: 'close' } }, (response) => {
      response.resume().on('end', () => resolve(true))
    })
    request.once('error', () => resolve(false))
  })
}
