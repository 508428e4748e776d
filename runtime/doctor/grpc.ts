import { connect } from 'node:http2'
import { ask, type Public } from './ask.ts'
import type { Find } from './finding.ts'

const timeoutMs = 5_000

/** gRPC is what needs HTTP/2 from end to end; a registry without it serves everything but `mcr --grpc`, so this is a note. */
export async function examineGrpc(to: Public, find: Find): Promise<void> {
  if (to.url.protocol !== 'https:') return
  const { status } = await ask(to, '/v1/health')
  const said = await health(to).catch((error: Error) => error.message)
  if (status !== 200 || said === undefined) return
  find({
    what: 'grpc',
    severity: 'note',
    says: `gRPC does not arrive (${said})`,
    cures: {
      nginx: 'listen … ssl http2; and location /mcr.v1. { grpc_pass grpc://<server.grpc_addr>; }',
      caddy: 'handle /mcr.v1.* { reverse_proxy <server.grpc_addr> { transport http { versions h2c 2 } } }',
      mcr: 'server.grpc_addr = "unix:/run/mcr/grpc.sock" in the process that mounts auth',
    },
  })
}

/** What is wrong with the call, or undefined. */
async function health(to: Public): Promise<string | undefined> {
  const session = connect(to.url.origin, { ca: to.ca, rejectUnauthorized: false })
  try {
    return await new Promise((resolve, reject) => {
      session.once('error', reject)
      const stream = session.request({
        ':method': 'POST',
        ':path': '/mcr.v1.AdminService/Health',
        'content-type': 'application/grpc',
        te: 'trailers',
      })
      stream.setTimeout(timeoutMs, () => reject(new Error('no answer')))
      let said = 'no grpc-status'
      const look = (headers: Record<string, unknown>) => {
        if (headers[':status'] !== undefined && headers[':status'] !== 200) said = `status ${headers[':status']}`
        if (headers['grpc-status'] !== undefined)
          said = headers['grpc-status'] === '0' ? '' : `grpc-status ${headers['grpc-status']}`
      }
      stream.on('response', look)
      stream.on('trailers', look)
      stream.on('error', reject)
      stream.on('close', () => resolve(said === '' ? undefined : said))
      stream.resume()
      // An empty message: one byte of flags, four of length.
      stream.end(Buffer.alloc(5))
    })
  } finally {
    session.destroy()
  }
}
