import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, request as httpRequest, type RequestListener } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mountOf } from './mounts.ts'
import { listeningPort, spawnRegistry } from './process.ts'

const mounts = ['push', 'pull', 'auth,admin'] as const
type Mount = (typeof mounts)[number]

/** Which of the three serves a request; where two can, they take turns. The end of the path decides. */
function chooser(): (method: string, path: string) => Mount {
  let pings = 0
  return (method, path) => {
    if (/^\/(v2\/token|v1\/|mcr\.v1\.|auth\/)/.test(path)) return 'auth,admin'
    if (/^\/v2\/?(\?|$)/.test(path)) return pings++ % 2 === 0 ? 'auth,admin' : 'pull'
    const upload = /\/blobs\/uploads(\/[^/?]*)?(\?|$)/.test(path)
    const other = /\/(manifests|referrers)\/[^/?]*(\?|$)|\/tags\/list(\?|$)|\/blobs\/[^/?]*:[^/?]*(\?|$)/.test(path)
    if (upload && !other) return 'push'
    return method === 'GET' || method === 'HEAD' ? 'pull' : 'push'
  }
}

/**
 * Three processes of the build with different mount lists over one data directory, behind a forwarding proxy that knows nothing of
 * registries but which process serves what. Shape: the proxy's port.
 */
export async function startSplit(
  settings: Record<string, string>,
  { tls, jobs }: { tls?: { cert: string; key: string }; jobs?: readonly string[] } = {},
): Promise<{ port: number; stop(): Promise<void> }> {
  const ports: Record<Mount, number> = { pull: 0, push: 0, 'auth,admin': 0 }
  const choose = chooser()
  const forward: RequestListener = (req, res) => {
    const port = ports[choose(req.method ?? 'GET', req.url ?? '/')]
    const asked = { ...req.headers, 'x-forwarded-for': req.socket.remoteAddress }
    const to = { host: '127.0.0.1', port, method: req.method, path: req.url, headers: asked, setHost: false }
    const upstream = httpRequest(to, (answer) => {
      const { connection: _connection, 'keep-alive': _keepAlive, ...headers } = answer.headers
      res.writeHead(answer.statusCode ?? 502, headers)
      answer.pipe(res)
      // An answer may come before the body has gone through; what is left of it is the proxy's to swallow.
      answer.once('end', () => {
        req.unpipe(upstream)
        req.resume()
      })
    })
    upstream.on('error', () => {
      if (!res.headersSent) res.destroy()
    })
    req.on('aborted', () => upstream.destroy())
    req.pipe(upstream)
  }
  const limits = { keepAliveTimeout: 60_000, requestTimeout: 0, maxHeaderSize: 64 * 1024 }
  const proxy = tls
    ? createSecureServer({ ...limits, cert: readFileSync(tls.cert), key: readFileSync(tls.key) }, forward)
    : createServer(limits, forward)
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  const { port } = proxy.address() as AddressInfo
  // Host passes through as the client sent it; the proxy is the one peer whose word on it, and on who asks, counts.
  const trust = {
    MCR_SERVER_TRUSTED_PROXIES: '127.0.0.1',
    ...(tls ? { MCR_SERVER_PUBLIC_URL: `https://localhost:${port}` } : {}),
  }
  const dir = mkdtempSync(join(tmpdir(), 'mcr-split-'))
  const children: ChildProcess[] = []
  for (const mount of mounts) {
    const child = spawnRegistry(['--mount', mountOf(mount, jobs, dir)], {
      ...settings,
      ...trust,
      MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
    })
    children.push(child)
    ports[mount] = await listeningPort(child)
  }
  return {
    port,
    async stop() {
      proxy.close()
      proxy.closeAllConnections()
      for (const child of children) {
        child.kill('SIGTERM')
        if (child.exitCode === null) await once(child, 'exit')
      }
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
