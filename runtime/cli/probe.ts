import { request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import { Command } from 'commander'
import { parseListen } from '../addresses.ts'
import type { Config } from '../config.ts'

const patienceMs = 4_000

/** `mcr probe`: whether the registry of this host's configuration is ready, for a supervisor that has no other client. */
export function probeCommand(load: () => Config): Command {
  return new Command('probe')
    .description('ask the registry of this configuration whether it is ready; exit 0 if so')
    .action(async () => {
      const { listenAddr } = load().server
      const status = await ask(requestHttp, listenAddr).catch(() => ask(requestHttps, listenAddr))
      if (status !== 200) throw Object.assign(new Error(`not ready: ${listenAddr} answers ${status}`), { status: 503 })
      console.log('ready')
    })
}

/** The status of /readyz. The certificate is whatever it is: this asks the own host, and says nothing that is secret. */
async function ask(request: typeof requestHttp | typeof requestHttps, address: string): Promise<number> {
  const to = address.startsWith('unix:') ? { socketPath: address.slice(5) } : target(address)
  return await new Promise((resolve, reject) => {
    const req = request({ ...to, path: '/readyz', headers: { Host: 'localhost' }, rejectUnauthorized: false }, (res) => {
      res.resume()
      resolve(res.statusCode ?? 0)
    })
    req.setTimeout(patienceMs, () => req.destroy(new Error(`no answer in ${patienceMs / 1000} s`)))
    req.once('error', (error) =>
      reject(Object.assign(new Error(`the registry cannot be reached at ${address}: ${error.message}`), { status: 503 })),
    )
    req.end()
  })
}

/** Who listens on every address is asked on loopback. */
function target(address: string): { host: string; port: number } {
  const { host, port } = parseListen(address)
  return { host: host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host, port }
}
