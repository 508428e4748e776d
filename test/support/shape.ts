import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mountOf } from './mounts.ts'
import { listeningPort, password, spawnRegistry } from './process.ts'
import { startBehind } from './proxies.ts'
import { startSplit } from './split.ts'

export interface Certificate {
  cert: string
  key: string
}

export interface StartOptions {
  tls?: Certificate
  jobs?: readonly string[]
}

/** How the registry runs while a suite asks it. */
export interface Shape {
  what: string
  /** Processes by mount lists behind a proxy, of which only that with the logins asks identity services and issuers. */
  split: boolean
  /** How many serve requests. */
  processes: number
  /** Starts it with these settings, on a free loopback port. `jobs`: of all that its mount lists have, just these run. */
  start(settings: Record<string, string>, options?: StartOptions): Promise<{ port: number; stop(): Promise<void> }>
}

export const shapes = {
  source: { what: 'one process, from source', split: false, processes: 1, start: startOne },
  split: { what: 'three processes, by mount lists', split: true, processes: 3, start: startSplit },
  nginx: {
    what: 'processes by mount lists behind nginx, each request to another than the last where two can serve it',
    split: true,
    processes: 5,
    start: (settings, options) => startBehind('nginx', settings, options),
  },
  caddy: {
    what: 'processes by mount lists behind Caddy, each request to another than the last where two can serve it',
    split: true,
    processes: 5,
    start: (settings, options) => startBehind('caddy', settings, { ...options, edit: alsoByAddress }),
  },
  binary: { what: 'the single executable', split: false, processes: 1, start: startOne },
  workers: {
    what: 'four workers under a parent',
    split: false,
    processes: 4,
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
  { tls, jobs }: StartOptions = {},
): Promise<{ port: number; stop(): Promise<void> }> {
  const dir = mkdtempSync(join(tmpdir(), 'mcr-one-'))
  const child = spawnRegistry(['--mount', mountOf('all', jobs, dir)], {
    ...settings,
    MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
    ...(tls ? { MCR_SERVER_TLS_CERT: tls.cert, MCR_SERVER_TLS_KEY: tls.key } : {}),
  })
  return {
    port: await listeningPort(child),
    async stop() {
      await endProcess(child)
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  await once(child, 'exit')
}

/** Caddy answers to the names that its configuration has, and some suites ask by address. */
function alsoByAddress(config: string): string {
  return config.replace(/^http:\/\/localhost(:[0-9]+) \{/m, 'http://localhost$1, http://127.0.0.1$1 {')
}
