import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mountOf } from './mounts.ts'
import { freePort } from './ports.ts'
import { findTool, killAtExit, listeningPort, mcrCommand, spawnRegistry } from './process.ts'

export type ProxyKind = 'nginx' | 'caddy'

/** Two processes of each list that serves what clients ask most: where two can serve a request, they take turns. */
const lists = ['pull', 'pull', 'push', 'push', 'auth,admin'] as const

export interface Behind {
  port: number
  /** Where the processes listen, by mount list; the first of each. */
  sockets: Readonly<Record<string, string>>
  stop(): Promise<void>
}

/**
 * Processes of the build with the mount lists pull, push and auth,admin on unix sockets over one data directory, behind a real nginx or
 * Caddy with the configuration that `mcr routes` writes for them. `edit` changes that configuration, for seeded mistakes; `jobs` are all that run.
 */
export async function startBehind(
  kind: ProxyKind,
  settings: Record<string, string>,
  options: {
    tls?: { cert: string; key: string }
    edit?: (config: string) => string
    mounts?: readonly string[]
    jobs?: readonly string[]
  } = {},
): Promise<Behind> {
  // A socket's path is short.
  const dir = mkdtempSync(join(tmpdir(), 'mcr-p-'))
  const port = await freePort()
  const children: ChildProcess[] = []
  const sockets: Record<string, string> = {}
  const args: string[] = []
  const grpc = join(dir, 'grpc')
  // Whoever makes the database goes first; what only reads would wait for it.
  const starting = (options.mounts ?? lists)
    .toSorted((a, b) => Number(b !== 'pull') - Number(a !== 'pull'))
    .map(async (mount, index) => {
      const socket = join(dir, String(index))
      sockets[mount] ??= socket
      args.push('--upstream', `${mount}=unix:${socket}`)
      const child = spawnRegistry(['--mount', mountOf(mount, options.jobs, dir)], {
        ...settings,
        MCR_SERVER_LISTEN_ADDR: `unix:${socket}`,
        ...(settings.MCR_SERVER_ACCEL ? {} : { MCR_SERVER_ACCEL: kind }),
        ...(/auth|all/.test(mount) ? { MCR_SERVER_GRPC_ADDR: `unix:${grpc}` } : {}),
      })
      children.push(child)
      await listeningPort(child)
    })
  await Promise.all(starting)
  const scheme = options.tls ? 'https' : 'http'
  const [file, ...first] = mcrCommand()
  const config = execFileSync(
    file,
    [
      ...first,
      'routes',
      `--${kind}`,
      ...args,
      ...['--grpc-upstream', `unix:${grpc}`, '--site', `${scheme}://localhost:${port}`, '--bind', '127.0.0.1', '--accel'],
      ...(options.tls ? ['--tls-cert', options.tls.cert, '--tls-key', options.tls.key] : []),
    ],
    { encoding: 'utf8', env: { PATH: process.env.PATH, ...settings } },
  )
  const proxy = await startProxy(kind, options.edit?.(config) ?? config, port, dir)
  return {
    port,
    sockets,
    async stop() {
      await proxy.stop()
      await Promise.all(
        children.map(async (child) => {
          if (child.exitCode !== null || child.signalCode !== null) return
          child.kill('SIGTERM')
          await once(child, 'exit')
        }),
      )
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

/** A real proxy with that configuration, which listens on `port`. Errors: a missing program, a configuration that it refuses. */
export async function startProxy(kind: ProxyKind, config: string, port: number, dir: string): Promise<{ stop(): Promise<void> }> {
  const program = findTool(kind)
  if (!program) throw new Error(`${kind} is not installed: .ci/install-clients`)
  const work = mkdtempSync(join(dir, `${kind}-`))
  const file = join(work, 'config')
  writeFileSync(file, kind === 'nginx' ? aroundNginx(config, work) : aroundCaddy(config, work))
  const args =
    kind === 'nginx'
      ? ['-p', work, '-c', file, '-e', join(work, 'error.log')]
      : ['run', '--config', file, '--adapter', 'caddyfile']
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, HOME: work } })
  killAtExit(child)
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said = `${said}${chunk}`.slice(-4000)
  })
  for (let attempt = 0; !(await listens(port)); attempt++) {
    if (child.exitCode !== null || attempt > 100) throw new Error(`${kind} did not start: ${said}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return {
    async stop() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGTERM')
        await once(child, 'exit')
      }
      rmSync(work, { recursive: true, force: true })
    },
  }
}

/** One worker, so that servers which take turns do so strictly. */
function aroundNginx(config: string, work: string): string {
  const folders = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  for (const name of folders) mkdirSync(join(work, name))
  return [
    ...(process.getuid?.() === 0 ? ['user root;'] : []),
    'daemon off; worker_processes 1;',
    `pid ${join(work, 'pid')};`,
    'events { worker_connections 2048; }',
    'http {',
    'access_log off;',
    ...folders.map((name) => `${name}_temp_path ${join(work, name)};`),
    config,
    '}',
    '',
  ].join('\n')
}

const aroundCaddy = (config: string, work: string): string =>
  `{\n\tadmin off\n\tauto_https off\n\tgrace_period 5s\n\tstorage file_system ${work}\n}\n${config}`

async function listens(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
