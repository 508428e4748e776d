import { createHash, randomBytes } from 'node:crypto'
import { request } from 'node:http'
import { ask } from './load.ts'
import { memory, type Peer, startMcr } from './peers.ts'

const gibibyte = 1024 ** 3

/** Peak resident memory of a 5 GiB layer in and out, and of 50 slow uploads at once. */
export async function memoryUse(): Promise<void> {
  const size = Number(process.env.MCR_BENCH_LAYER_GIB ?? 5) * gibibyte
  const mcr = await startMcr()
  await mcr.token(['memory/app'])
  const piece = randomBytes(1024 * 1024)
  const hash = createHash('sha256')
  for (let sent = 0; sent < size; sent += piece.length) hash.update(piece)
  const digest = `sha256:${hash.digest('hex')}`
  const { headers } = await ask(mcr, 'POST', '/v2/memory/app/blobs/uploads/')
  const started = performance.now()
  const status = await stream(mcr, 'PATCH', String(headers.location), size, () => piece, 0)
  const put = await ask(mcr, 'PUT', `${String(headers.location)}?digest=${digest}`)
  const pushed = performance.now()
  const got = await ask(mcr, 'GET', `/v2/memory/app/blobs/${digest}`)
  const seconds = (ms: number) => (ms / 1000).toFixed(1)
  console.log(
    `${size / gibibyte} GiB: PATCH ${status}, PUT ${put.status} in ${seconds(pushed - started)} s, GET ${got.bytes === size ? 'whole' : 'SHORT'} in ${seconds(performance.now() - pushed)} s, peak ${memory(mcr.pid).peak} MB resident`,
  )
  await mcr.stop()

  const slow = await startMcr()
  await slow.token(['memory/app'])
  const small = randomBytes(16 * 1024)
  const uploads = Array.from({ length: 50 }, async () => {
    const start = await ask(slow, 'POST', '/v2/memory/app/blobs/uploads/')
    return await stream(slow, 'PATCH', String(start.headers.location), 8 * 1024 * 1024, () => small, 20)
  })
  const statuses = await Promise.all(uploads)
  console.log(
    `50 slow uploads of 8 MiB: ${statuses.filter((code) => code === 202).length} × 202, peak ${memory(slow.pid).peak} MB resident`,
  )
  await slow.stop()
  await crowd()
}

/** A hundred uploads and two hundred downloads at once, each as fast as it gets: the peak must not follow their sizes. */
async function crowd(): Promise<void> {
  const mebibytes = Number(process.env.MCR_BENCH_CROWD_MIB ?? 64)
  const mcr = await startMcr({ MCR_LIMITS_UPLOADS_PER_PRINCIPAL: '1000' })
  await mcr.token(['memory/app'])
  const layer = randomBytes(mebibytes * 1024 * 1024)
  const digest = `sha256:${createHash('sha256').update(layer).digest('hex')}`
  await ask(mcr, 'POST', `/v2/memory/app/blobs/uploads/?digest=${digest}`, layer)
  const before = memory(mcr.pid).now
  const piece = randomBytes(64 * 1024)
  const uploads = Array.from({ length: 100 }, async () => {
    const start = await ask(mcr, 'POST', '/v2/memory/app/blobs/uploads/')
    return await stream(mcr, 'PATCH', String(start.headers.location), layer.length, () => piece, 0)
  })
  const pulls = Array.from(
    { length: 200 },
    async () => (await ask(mcr, 'GET', `/v2/memory/app/blobs/${digest}`)).bytes === layer.length,
  )
  const [pushed, pulled] = [await Promise.all(uploads), await Promise.all(pulls)]
  console.log(
    `100 uploads and 200 downloads of ${mebibytes} MiB at once: ${pushed.filter((code) => code === 202).length} × 202, ${pulled.filter(Boolean).length} whole, ${before} MB before, peak ${memory(mcr.pid).peak} MB resident`,
  )
  await mcr.stop()
}

/** Streams a body in pieces, waiting between them. Shape: the status. */
async function stream(
  peer: Peer,
  method: string,
  path: string,
  size: number,
  next: () => Uint8Array,
  pauseMs: number,
): Promise<number> {
  return await new Promise((resolve, reject) => {
    const req = request(`${peer.url}${path}`, { method, headers: { ...peer.headers, 'content-length': String(size) } }, (res) => {
      res.resume()
      res.on('end', () => resolve(res.statusCode ?? 0))
    })
    req.on('error', reject)
    let sent = 0
    const write = () => {
      while (sent < size) {
        const piece = next().subarray(0, size - sent)
        sent += piece.length
        if (!req.write(piece)) {
          req.once('drain', () => (pauseMs > 0 ? setTimeout(write, pauseMs) : write()))
          return
        }
        if (pauseMs > 0) {
          setTimeout(write, pauseMs)
          return
        }
      }
      req.end()
    }
    write()
  })
}
