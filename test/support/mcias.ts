import { createPublicKey, generateKeyPairSync, type KeyObject, randomUUID, sign, verify } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { makeCertificate } from './process.ts'

export interface McAccount {
  username: string
  /** Without one it is a system account, which has issued tokens only. */
  password?: string
  /** The one-time code that is right, always. */
  totp?: string
  roles?: string[]
  type?: 'human' | 'system'
}

/** What a path answers instead of the truth. `hang`: never; `drop`: the connection ends. */
export type McAnswer = { status: number; headers?: Record<string, string>; body?: string | Buffer } | 'hang' | 'drop'

export interface McRequest {
  method: string
  authorization?: string
  body: string
}

export interface McServer {
  url: string
  /** The path of the certificate to trust. */
  caCert: string
  /** Shape: the account's UUID. */
  addAccount(account: McAccount): string
  issueToken(username: string, ttlSeconds: number): string
  revoke(token: string): void
  setRoles(username: string, roles: string[]): void
  /** Logins for services with this tag are refused from now on; only those with the role, if one is named. */
  denyTag(tag: string, role?: string): void
  /** Signs with a new key from now on; tokens of the one before are no longer valid. */
  rotateKey(): void
  /** The path answers that until it is called without. */
  answer(path: string, answer?: McAnswer): void
  /** Requests so far, by path. */
  counts: Record<string, number>
  /** The newest request, by path. */
  last: Record<string, McRequest>
  /** Nothing listens any more, open connections end. */
  down(): Promise<void>
  /** Listens again on the same port, knowing what it knew. */
  up(): Promise<void>
  /** Ends it and removes its files. */
  stop(): Promise<void>
}

type Account = Required<Omit<McAccount, 'password' | 'totp'>> & Pick<McAccount, 'password' | 'totp'> & { id: string }
type Reply = { status: number; body: unknown }

const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
/** Without milliseconds, as Go writes it. */
const rfc3339 = (seconds: number) => new Date(seconds * 1000).toISOString().replace('.000', '')
const refusal = (status: number, code: string): Reply => ({ status, body: { error: code.replaceAll('_', ' '), code } })

/** An identity service with the interface of MCIAS over HTTPS on a free loopback port, without accounts. */
export async function startMcias(): Promise<McServer> {
  const dir = mkdtempSync(join(tmpdir(), 'mcr-mcias-'))
  const files = makeCertificate(dir)
  const tls = { cert: readFileSync(files.cert), key: readFileSync(files.key) }
  const accounts = new Map<string, Account>()
  const revoked = new Set<string>()
  const denials: { tag: string; role?: string }[] = []
  const answers = new Map<string, McAnswer>()
  const counts: Record<string, number> = {}
  const last: Record<string, McRequest> = {}
  let privateKey: KeyObject
  let publicKey: KeyObject
  let server: Server | undefined
  let port = 0
  let url = ''

  const rotateKey = () => {
    privateKey = generateKeyPairSync('ed25519').privateKey
    publicKey = createPublicKey(privateKey)
  }
  rotateKey()

  const accountOf = (username: string) => {
    const account = accounts.get(username)
    if (!account) throw new Error(`no account ${username}`)
    return account
  }

  const issueToken = (username: string, ttlSeconds: number) => {
    const { id, roles } = accountOf(username)
    const iat = Math.floor(Date.now() / 1000)
    const claims = { sub: id, roles, iss: url, iat, exp: iat + ttlSeconds, jti: randomUUID() }
    const text = `${encode({ alg: 'EdDSA', typ: 'JWT' })}.${encode(claims)}`
    return `${text}.${sign(null, Buffer.from(text), privateKey).toString('base64url')}`
  }

  const readClaims = (token: string): { sub: string; exp: number; jti: string } | undefined => {
    const [head = '', body = '', signature = ''] = token.split('.')
    if (!verify(null, Buffer.from(`${head}.${body}`), publicKey, Buffer.from(signature, 'base64url'))) return undefined
    return JSON.parse(`${Buffer.from(body, 'base64url')}`)
  }

  const login = (body: string): Reply => {
    const { username, password, totp_code: code, tags = [] } = JSON.parse(body)
    if (!username || !password) return refusal(400, 'bad_request')
    const account = accounts.get(username)
    if (account?.password === undefined || account.password !== password) return refusal(401, 'unauthorized')
    if (account.totp !== undefined && code === undefined) return refusal(401, 'totp_required')
    if (account.totp !== code && account.totp !== undefined) return refusal(401, 'unauthorized')
    if (denials.some(({ tag, role }) => tags.includes(tag) && (role === undefined || account.roles.includes(role))))
      return refusal(403, 'policy_denied')
    const ttl = account.roles.includes('admin') ? 8 * 3600 : 30 * 24 * 3600
    const token = issueToken(username, ttl)
    return { status: 200, body: { token, expires_at: rfc3339(readClaims(token)?.exp ?? 0) } }
  }

  const validate = (authorization: string | undefined, body: string): Reply => {
    const sent = authorization?.replace(/^Bearer /, '') ?? JSON.parse(body || '{}').token
    const claims = readClaims(`${sent}`)
    const account = [...accounts.values()].find(({ id }) => id === claims?.sub)
    if (!claims || !account || revoked.has(claims.jti) || claims.exp * 1000 <= Date.now())
      return { status: 200, body: { valid: false } }
    const { id, username, roles, type } = account
    return {
      status: 200,
      body: { valid: true, sub: id, username, roles, account_type: type, expires_at: rfc3339(claims.exp) },
    }
  }

  const reply = ({ method, authorization, body }: McRequest, path: string): Reply => {
    try {
      if (method === 'POST' && path === '/v1/auth/login') return login(body)
      if (method === 'POST' && path === '/v1/token/validate') return validate(authorization, body)
      if (method === 'GET' && path === '/v1/keys/public') {
        const { kty, crv, x } = publicKey.export({ format: 'jwk' })
        return { status: 200, body: { kty, crv, x } }
      }
      return refusal(404, 'not_found')
    } catch {
      return refusal(400, 'bad_request')
    }
  }

  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const path = request.url ?? ''
    counts[path] = (counts[path] ?? 0) + 1
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    const seen = { method: request.method ?? '', authorization: request.headers.authorization, body }
    last[path] = seen
    const told = answers.get(path)
    if (told === 'hang') return
    if (told === 'drop') return request.socket.destroy()
    if (told) return response.writeHead(told.status, told.headers).end(told.body)
    const { status, body: answer } = reply(seen, path)
    response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer))
  }

  const up = async () => {
    if (server) return
    server = createServer(tls, (request, response) => {
      // A client that leaves in the middle is no concern of the service.
      handle(request, response).catch(() => response.destroy())
    })
    await once(server.listen(port, '127.0.0.1'), 'listening')
    port = (server.address() as { port: number }).port
    url = `https://localhost:${port}`
  }

  const down = async () => {
    if (!server) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    server = undefined
    await closed
  }

  await up()
  return {
    url,
    caCert: files.cert,
    addAccount({ username, password, totp, roles = [], type = password === undefined ? 'system' : 'human' }) {
      const id = randomUUID()
      accounts.set(username, { id, username, password, totp, roles, type })
      return id
    },
    issueToken,
    revoke(token) {
      const claims = readClaims(token)
      if (claims) revoked.add(claims.jti)
    },
    setRoles(username, roles) {
      accountOf(username).roles = roles
    },
    denyTag: (tag, role) => denials.push({ tag, role }),
    rotateKey,
    answer(path, answer) {
      if (answer) answers.set(path, answer)
      else answers.delete(path)
    },
    counts,
    last,
    down,
    up,
    async stop() {
      await down()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
