import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'

const root = new URL('../../', import.meta.url).pathname

/** Where the tools that are built for the tests are put. */
export const toolsDirectory =
  process.env.MCR_TEST_BIN ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'mcr-test', 'bin')

/** The path of a command: among the tools built for the tests, else on PATH; undefined where it is missing. */
export function findTool(name: string): string | undefined {
  for (const folder of [toolsDirectory, ...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']) {
    try {
      accessSync(join(folder, name), constants.X_OK)
      return join(folder, name)
    } catch {}
  }
  return undefined
}

/** A certificate for localhost by openssl. Shape: paths of certificate and key. */
export function makeCertificate(directory: string): { cert: string; key: string } {
  const cert = join(directory, 'cert.pem')
  const key = join(directory, 'key.pem')
  execFileSync(
    'openssl',
    `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ${key} -out ${cert} -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1`.split(
      ' ',
    ),
    { stdio: 'ignore' },
  )
  return { cert, key }
}

export interface RegistryProcess {
  /** `host:port`, as clients name a registry. */
  host: string
  url: string
  dir: string
  pid: number
  /** Ends the process by a signal and waits. */
  stop(signal?: NodeJS.Signals): Promise<void>
  /** Waits for it to end by itself. Shape: its exit code. */
  exitCode(): Promise<number | null>
  /** Starts it again over the same data and port. */
  restart(signal?: NodeJS.Signals): Promise<void>
  /** Ends it and removes its data. */
  remove(): Promise<void>
}

export const password = 'correct-horse-battery'

/** The program that is tested: `dist/mcr.cjs` on this Node, or the file that `MCR_TEST_COMMAND` names. Shape: a file and its first arguments. */
export function mcrCommand(): [file: string, ...args: string[]] {
  const named = process.env.MCR_TEST_COMMAND
  return named ? [join(root, named)] : [process.execPath, join(root, 'dist/mcr.cjs')]
}

const alive = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of alive) child.kill('SIGKILL')
})

/** Kills a process with this one at the latest: nothing that a test started outlives it. */
export function killAtExit(child: ChildProcess): void {
  alive.add(child)
  child.once('exit', () => alive.delete(child))
}

/** `mcr serve` of the build with these settings and no others, logging JSON to a pipe; killed with this process at the latest. `through` is a command that runs it. */
export function spawnRegistry(args: string[], settings: Record<string, string>, through: readonly string[] = []): ChildProcess {
  const [file, ...first] = [...through, ...mcrCommand()] as [string, ...string[]]
  const child = spawn(file, [...first, 'serve', ...args], {
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      MCR_LOG_FORMAT: 'json',
      MCR_STORAGE_BALLAST: '0',
      ...settings,
      MCR_LOG_LEVEL: 'info',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  killAtExit(child)
  return child
}

/** Starts the built registry with an admin of that password on a free loopback port, and waits until it is ready. */
export async function startRegistry(
  options: {
    tls?: { cert: string; key: string }
    env?: Record<string, string>
    port?: number
    /** Hears every line of the log; without it errors are shown. */
    onLog?: (line: string) => void
    /** data that is there already */
    dir?: string
    args?: string[]
    /** A command that runs the program, such as prlimit. */
    through?: readonly string[]
  } = {},
): Promise<RegistryProcess> {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'mcr-data-'))
  let child: ChildProcess
  let port = options.port ?? 0

  const start = async () => {
    const settings = {
      MCR_STORAGE_ROOT: dir,
      MCR_STORAGE_FREE_FLOOR: '0',
      MCR_AUTH_BOOTSTRAP_PASSWORD: password,
      MCR_SERVER_LISTEN_ADDR: `127.0.0.1:${port}`,
      ...(options.tls ? { MCR_SERVER_TLS_CERT: options.tls.cert, MCR_SERVER_TLS_KEY: options.tls.key } : {}),
      ...options.env,
    }
    child = spawnRegistry(options.args ?? [], settings, options.through)
    port = await listeningPort(child, options.onLog)
  }
  await start()
  const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }
  return {
    host: `localhost:${port}`,
    url: `${options.tls ? 'https' : 'http'}://localhost:${port}`,
    dir,
    get pid() {
      return child.pid as number
    },
    stop,
    async exitCode() {
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
      return child.exitCode
    },
    async restart(signal) {
      await stop(signal)
      await start()
    },
    async remove() {
      await stop()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

/** The port that the log line `listening` names; `onLog` hears the log, by default its errors are shown. */
export async function listeningPort(
  child: ChildProcess,
  onLog = (line: string) => {
    if (line.includes('"level":"error"')) console.error(line)
  },
): Promise<number> {
  let text = ''
  let found = false
  return await new Promise((resolve, reject) => {
    child.stdout?.on('data', (chunk: Buffer) => {
      for (const line of `${chunk}`.split('\n')) onLog(line)
      if (found) return
      text += chunk
      const port = /"port":([0-9]+)/.exec(text)?.[1]
      if (!port) return
      found = true
      resolve(Number(port))
    })
    child.once('exit', (code) => reject(new Error(`the registry ended with ${code}: ${text}`)))
  })
}
