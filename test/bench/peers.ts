import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findTool, killAtExit, password, startRegistry } from '../support/process.ts'

/** A registry under measurement: plain HTTP on loopback. */
export interface Peer {
  name: string
  url: string
  pid: number
  /** Headers that let a client do everything. */
  headers: Record<string, string>
  stop(): Promise<void>
}

const ticksPerSecond = 100

/** User and system CPU seconds of a process so far. */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') as string[]
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond
}

/** Resident megabytes of a process, now and at its peak. */
export function memory(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const of = (name: string) => Math.round(Number(new RegExp(`${name}:\\s+([0-9]+)`).exec(status)?.[1]) / 1024)
  return { now: of('VmRSS'), peak: of('VmHWM') }
}

/** This registry, with a token for `repositories`: logins are not what is measured. */
export async function startMcr(
  env: Record<string, string> = {},
): Promise<Peer & { dir: string; token(repositories: string[]): Promise<void> }> {
  // Request lines would be measured too; the peer writes none either.
  const registry = await startRegistry({ env: { MCR_LOG_LEVEL: 'info', MCR_AUTH_TOKEN_TTL: '12h', ...env } })
  const peer = {
    name: 'mcr',
    url: registry.url.replace('localhost', '127.0.0.1'),
    pid: registry.pid,
    dir: registry.dir,
    headers: {} as Record<string, string>,
    async token(repositories: string[]) {
      const scope = repositories.map((name) => `scope=repository:${name}:pull,push,delete`).join('&')
      const response = await fetch(`${peer.url}/v2/token?${scope}&scope=registry:catalog:*`, {
        headers: { authorization: `Basic ${btoa(`admin:${password}`)}` },
      })
      peer.headers = { authorization: `Bearer ${((await response.json()) as { token: string }).token}` }
    },
    stop: () => registry.remove(),
  }
  return peer
}

/** Debian's docker-registry, as it comes, over a directory. */
export async function startDockerRegistry(): Promise<Peer | undefined> {
  const command = findTool('docker-registry')
  if (!command) return undefined
  const dir = mkdtempSync(join(tmpdir(), 'bench-peer-'))
  const port = await freePort()
  const config = join(dir, 'config.yml')
  writeFileSync(
    config,
    `version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: ${dir}/data\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:${port}\n`,
  )
  const child: ChildProcess = spawn(command, ['serve', config], { stdio: 'ignore' })
  killAtExit(child)
  const url = `http://127.0.0.1:${port}`
  for (let attempt = 0; attempt < 100; attempt++) {
    if (
      await fetch(`${url}/v2/`).then(
        (response) => response.ok,
        () => false,
      )
    )
      break
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return {
    name: 'docker-registry',
    url,
    pid: child.pid as number,
    // Without it the manifest is a 404 there.
    headers: { accept: 'application/vnd.docker.distribution.manifest.v2+json' },
    async stop() {
      child.kill('SIGTERM')
      if (child.exitCode === null) await once(child, 'exit')
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  return port
}

export const median = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] as number
