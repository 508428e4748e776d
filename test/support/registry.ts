import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { addAccount } from '../../lib/auth/accounts.ts'
import type { MetadataStore } from '../../lib/metadata/sql.ts'
import { createApp } from '../../runtime/app.ts'
import { loadConfig } from '../../runtime/config.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { startAppServer } from '../../runtime/main.ts'
import { createPasswords } from '../../runtime/passwords.ts'
import { loadHandlers, makeAssets, nativeFetch } from './assets.ts'
import { type Shape, shapeName, shapes } from './shape.ts'

export interface Login {
  name: string
  password: string
}

export interface FetchOptions {
  body?: BodyInit | Uint8Array | null
  headers?: Record<string, string>
  duplex?: 'half'
  /** Who asks; null is anonymous, absent is the admin. */
  as?: Login | null
  bearer?: string
}

/** A registry with real storage behind real sockets. */
export interface TestRegistry {
  url: string
  port: number
  root: string
  admin: Login
  fetch(method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, options?: FetchOptions): Promise<Response>
  /** Sends `bytes` of a body and drops the connection. */
  cut(method: string, path: string, body: Uint8Array, bytes: number): Promise<void>
  token(...scopes: string[]): Promise<string>
  account(name: string, roles: string[], kind?: 'human' | 'system'): Promise<Login>
  /** Raw rows, for what no client can do yet. */
  sql(text: string, args?: (string | number | null)[]): Promise<void>
  /** The database behind it: this process's own handle. */
  database: MetadataStore
}

const password = 'correct horse battery staple'

/**
 * A registry for this test file, ended with it: from source, in this process, or in the shape that `MCR_TEST_SHAPE` names, in processes of
 * its own over the same data directory. `jobs` are all that run by themselves.
 */
export async function testRegistry(env: Record<string, string> = {}, jobs: readonly string[] = []): Promise<TestRegistry> {
  const root = mkdtempSync(join(tmpdir(), 'mcr-test-'))
  const settings = {
    MCR_STORAGE_ROOT: root,
    MCR_AUTH_BOOTSTRAP_PASSWORD: password,
    MCR_LOG_LEVEL: 'error',
    MCR_STORAGE_FREE_FLOOR: '0',
    MCR_STORAGE_BALLAST: '0',
    ...env,
  }
  const backend =
    shapeName() === 'source' ? await startInProcess(settings, jobs) : await startOutside(shapes[shapeName()], settings, jobs)
  after(async () => {
    await backend.stop()
    rmSync(root, { recursive: true, force: true })
  })
  const admin = { name: 'admin', password }
  const url = `http://127.0.0.1:${backend.port}`
  const authorization = ({ as, bearer }: FetchOptions): Record<string, string> => {
    if (bearer !== undefined) return { authorization: `Bearer ${bearer}` }
    const login = as === undefined ? admin : as
    return login ? { authorization: `Basic ${btoa(`${login.name}:${login.password}`)}` } : {}
  }
  return {
    url,
    port: backend.port,
    root,
    admin,
    async fetch(method, path, options = {}) {
      const { body, duplex } = options
      return await nativeFetch(`${url}${path}`, {
        method,
        body,
        duplex,
        redirect: 'manual',
        headers: { ...authorization(options), ...options.headers },
      } as RequestInit)
    },
    async cut(method, path, body, bytes) {
      const socket = connect(backend.port, '127.0.0.1')
      await once(socket, 'connect')
      const { authorization: value } = authorization({})
      socket.write(
        `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: ${value}\r\nContent-Length: ${body.length}\r\n\r\n`,
      )
      await new Promise((resolve) => socket.write(body.subarray(0, bytes), resolve))
      await new Promise((resolve) => setTimeout(resolve, 50))
      socket.destroy()
      await new Promise((resolve) => setTimeout(resolve, 50))
    },
    async token(...scopes) {
      const query = scopes.map((scope) => `scope=${encodeURIComponent(scope)}`).join('&')
      const response = await nativeFetch(`${url}/v2/token?${query}`, { headers: authorization({}) })
      return ((await response.json()) as { token: string }).token
    },
    async account(name, roles, kind = 'human') {
      const passwordHash = await createPasswords().hash(password)
      await backend.database.write((sql) =>
        addAccount(sql, { subject: `local:${randomUUID()}`, name, kind, roles, passwordHash, now: Date.now() }),
      )
      return { name, password }
    },
    async sql(text, args) {
      await backend.database.write((sql) => sql.run(text, args))
    },
    database: backend.database,
  }
}

interface Backend {
  port: number
  database: MetadataStore
  stop(): Promise<void>
}

async function startInProcess(settings: Record<string, string>, jobs: readonly string[]): Promise<Backend> {
  const loaded = loadConfig({ env: { ...settings, MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0' } })
  if ('problems' in loaded) throw new Error(JSON.stringify(loaded.problems))
  const handlers = await loadHandlers()
  const app = await createApp(loaded.config, makeAssets(handlers), Object.values(handlers), (error) => {
    throw error
  })
  const server = await startAppServer(app, loaded.config)
  app.startJobs(jobs)
  return {
    port: server.port,
    database: app.database,
    async stop() {
      await server.drain(1_000)
      await app.close()
    },
  }
}

async function startOutside(shape: Shape, settings: Record<string, string>, jobs: readonly string[]): Promise<Backend> {
  const running = await shape.start(settings, { jobs })
  const database = await openDatabaseFile(join(settings.MCR_STORAGE_ROOT as string, 'mcr.db'), { onFatal: () => undefined })
  return {
    port: running.port,
    database,
    async stop() {
      await database.close()
      await running.stop()
    },
  }
}
