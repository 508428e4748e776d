import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Member } from './fleet.ts'

/** What came back; status 0 where no answer came, and then `sent` says whether the request may have arrived. */
export interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  body: Buffer
  sent: boolean
  /** The process that was asked. */
  by: string
}

export interface Ask {
  body?: Uint8Array | string
  headers?: Record<string, string>
  /** Leave after that many bytes of the body. */
  cutAt?: number
  /** Leave without an answer after this time. Default: ten minutes, far beyond any pause that the tests make on any machine. */
  timeoutMs?: number
  /** A process to ask, or one not to ask where there is another. */
  of?: Member
  avoid?: string
}

export type Client = (method: string, path: string, ask?: Ask) => Promise<Answer>

/** Holds requests before they are sent. */
export interface Gate {
  close(): void
  open(): void
  passed(): Promise<void>
}

export function createGate(): Gate {
  let closed: Promise<void> | undefined
  let release: () => void = () => undefined
  return {
    close() {
      closed ??= new Promise((resolve) => {
        release = resolve
      })
    },
    open() {
      closed = undefined
      release()
    },
    async passed() {
      while (closed) await closed
    },
  }
}

/** A client of several processes: each request goes to one of those that are up and serve it, by turns. */
export function createClient(members: readonly Member[], secret: string, passed?: Gate['passed']): Client {
  const agents = new Map(members.map((member) => [member, new Agent({ keepAlive: true, maxSockets: 64 })]))
  const authorization = `Basic ${btoa(`admin:${secret}`)}`
  let turn = 0
  return async (method, path, ask = {}) => {
    await passed?.()
    for (const deadline = Date.now() + 600_000; ; ) {
      const able = members.filter((member) => member.ready && serves(member.mount, method, path))
      const others = able.filter((member) => member.name !== ask.avoid)
      const list = others.length > 0 ? others : able
      const member = ask.of ?? list[turn++ % list.length]
      if (member) return await send(member, agents.get(member) as Agent, authorization, method, path, ask)
      if (Date.now() > deadline) throw new Error(`nobody serves ${method} ${path}`)
      await sleep(10)
    }
  }
}

function serves(mount: string, method: string, path: string): boolean {
  if (mount === 'all') return true
  if (path.startsWith('/v1/')) return mount === 'auth'
  const reads = (method === 'GET' || method === 'HEAD') && !path.includes('/blobs/uploads/')
  return mount === (reads ? 'pull' : 'push')
}

async function send(
  member: Member,
  agent: Agent,
  authorization: string,
  method: string,
  path: string,
  { body, headers, cutAt, timeoutMs = 600_000 }: Ask,
): Promise<Answer> {
  const bytes = body === undefined ? undefined : Buffer.from(body as Uint8Array)
  return await new Promise((resolve) => {
    const none = (sent: boolean) => resolve({ status: 0, headers: {}, body: Buffer.alloc(0), sent, by: member.name })
    const req = request(
      {
        host: '127.0.0.1',
        port: member.port,
        agent,
        method,
        path,
        headers: {
          authorization,
          ...(bytes || method === 'POST' || method === 'PUT' || method === 'PATCH'
            ? { 'content-length': String(bytes?.length ?? 0) }
            : {}),
          ...headers,
        },
      },
      (res) => {
        const chunks: Buffer[] = []
        res.on('data', (chunk: Buffer) => chunks.push(chunk))
        // A body that stops short is no answer, whatever its head said.
        res.on('end', () => {
          if (!res.complete) return none(true)
          resolve({ status: res.statusCode ?? 0, headers: res.headers, body: Buffer.concat(chunks), sent: true, by: member.name })
        })
        res.on('error', () => none(true))
      },
    )
    req.setTimeout(timeoutMs, () => req.destroy())
    req.on('error', (error: NodeJS.ErrnoException) => none(error.code !== 'ECONNREFUSED'))
    if (cutAt === undefined || !bytes) return void req.end(bytes)
    req.write(bytes.subarray(0, cutAt), () => setTimeout(() => req.destroy(), 2))
    if (cutAt === 0) setTimeout(() => req.destroy(), 2)
  })
}
