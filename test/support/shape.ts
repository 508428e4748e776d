import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { globSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { listeningPort, password, spawnRegistry } from './process.ts'
import { startBehind } from './proxies.ts'
import { startSplit } from './split.ts'

export interface Certificate {
  cert: string
  key: string
}

/** How the registry runs while a suite asks it. */
export interface Shape {
  what: string
  /** Starts it with these settings, on a free loopback port. `jobs`: just these run, where one process has everything. */
  start(
    settings: Record<string, string>,
    options?: { tls?: Certificate; jobs?: readonly string[] },
  ): Promise<{ port: number; stop(): Promise<void> }>
}

export const shapes = {
  source: { what: 'one process, from source', start: startOne },
  split: { what: 'three processes, by mount lists', start: (settings, { tls } = {}) => startSplit(settings, tls) },
  nginx: {
    what: 'processes by mount lists behind nginx, each request to another than the last where two can serve it',
    start: (settings, { tls } = {}) => startBehind('nginx', settings, { tls }),
  },
  caddy: {
    what: 'processes by mount lists behind Caddy, each request to another than the last where two can serve it',
    start: (settings, { tls } = {}) => startBehind('caddy', settings, { tls }),
  },
  binary: { what: 'the single executable', start: startOne },
  workers: {
    what: 'four workers under a parent',
    start: (settings, options) => startOne({ MCR_SERVER_WORKERS: '4', ...settings }, options),
  },
} satisfies Record<string, Shape>

export type ShapeName = keyof typeof shapes

/**
 * The shape that the suites run against. `MCR_TEST_SHAPE` names it; `npm run test:shapes -- <name>` sets that, and `MCR_TEST_COMMAND` where
 * the program is another file. Errors: an unknown name.
 */
export function shapeName(): ShapeName {
  const name = process.env.MCR_TEST_SHAPE ?? 'source'
  if (!Object.hasOwn(shapes, name)) throw new Error(`MCR_TEST_SHAPE=${name}: there are ${Object.keys(shapes).join(', ')}`)
  return name as ShapeName
}

/** A registry of that shape with an admin, over a directory of its own. */
export async function startShape(
  name: ShapeName,
  tls: Certificate | undefined,
  env: Record<string, string> = {},
): Promise<{ host: string; dir: string; remove(): Promise<void> }> {
  const dir = mkdtempSync(join(tmpdir(), `mcr-${name}-`))
  const settings = { MCR_STORAGE_ROOT: dir, MCR_STORAGE_FREE_FLOOR: '0', MCR_AUTH_BOOTSTRAP_PASSWORD: password, ...env }
  const running = await shapes[name].start(settings, { tls })
  return {
    host: `localhost:${running.port}`,
    dir,
    async remove() {
      await running.stop()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

async function startOne(
  settings: Record<string, string>,
  { tls, jobs }: { tls?: Certificate; jobs?: readonly string[] } = {},
): Promise<{ port: number; stop(): Promise<void> }> {
  const child = spawnRegistry(jobs ? ['--mount', mountWith(jobs)] : [], {
    ...settings,
    MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
    ...(tls ? { MCR_SERVER_TLS_CERT: tls.cert, MCR_SERVER_TLS_KEY: tls.key } : {}),
  })
  return { port: await listeningPort(child), stop: () => endProcess(child) }
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  await once(child, 'exit')
}

/** A mount list of every handler and these jobs. */
function mountWith(jobs: readonly string[]): string {
  const handlers = globSync('handlers/**/*.ts').map((file) => file.replace(/^handlers\//, '').replace(/\.ts$/, ''))
  const directory = mkdtempSync(join(tmpdir(), 'mcr-mount-'))
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  const file = join(directory, 'test.toml')
  writeFileSync(file, `handlers = ${JSON.stringify(handlers)}\njobs = ${JSON.stringify(jobs)}\n`)
  return file
}
