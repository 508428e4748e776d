import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { request } from 'node:http'
import { promisify } from 'node:util'
import { findTool } from '../support/process.ts'
import { cpuSeconds, type Peer } from './peers.ts'

const execute = promisify(execFile)
export const sha256 = (bytes: Uint8Array | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

export interface Sample {
  /** operations or megabytes per second of wall time */
  rate: number
  /** milliseconds of the server's CPU for one operation */
  cpuMs: number
}

/** wrk over keep-alive connections for some seconds. */
export async function hammer(
  peer: Peer,
  path: string,
  options: { method?: string; connections: number; seconds: number },
): Promise<Sample> {
  const wrk = findTool('wrk')
  if (!wrk) throw new Error('wrk is not installed')
  const headers = Object.entries(peer.headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`])
  const script = options.method ? ['-s', '/dev/stdin'] : []
  const before = cpuSeconds(peer.pid)
  const run = execute(wrk, [
    '-t1',
    `-c${options.connections}`,
    `-d${options.seconds}s`,
    ...headers,
    ...script,
    `${peer.url}${path}`,
  ])
  run.child.stdin?.end(options.method ? `wrk.method = "${options.method}"\n` : '')
  const { stdout } = await run
  const cpu = cpuSeconds(peer.pid) - before
  const requests = Number(/([0-9]+) requests in/.exec(stdout)?.[1])
  if (/Non-2xx/.test(stdout)) throw new Error(`${peer.name} ${path}: ${stdout}`)
  return { rate: Number(/Requests\/sec: +([0-9.]+)/.exec(stdout)?.[1]), cpuMs: (cpu * 1000) / requests }
}

/** Runs `work` a number of times over some clients at once. */
export async function many(peer: Peer, count: number, clients: number, work: (index: number) => Promise<void>): Promise<Sample> {
  const before = cpuSeconds(peer.pid)
  const started = performance.now()
  let next = 0
  const client = async () => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: clients }, client))
  const seconds = (performance.now() - started) / 1000
  return { rate: count / seconds, cpuMs: ((cpuSeconds(peer.pid) - before) * 1000) / count }
}

/** One request over node:http; the body is dropped as it comes. Shape: status, headers, bytes. */
export async function ask(
  peer: Peer,
  method: string,
  path: string,
  body?: Uint8Array | string,
  headers: Record<string, string> = {},
) {
  return await new Promise<{ status: number; headers: Record<string, string | string[] | undefined>; bytes: number }>(
    (resolve, reject) => {
      const url = path.startsWith('http') ? path : `${peer.url}${path}`
      const req = request(
        url,
        { method, headers: { ...peer.headers, 'content-length': String(body?.length ?? 0), ...headers } },
        (res) => {
          let bytes = 0
          res.on('data', (chunk: Buffer) => {
            bytes += chunk.length
          })
          res.on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, bytes }))
          res.on('error', reject)
        },
      )
      req.on('error', reject)
      req.end(body)
    },
  )
}

/** Pushes a blob as docker does: POST, PATCH, PUT. */
export async function pushBlob(peer: Peer, name: string, blob: Uint8Array): Promise<string> {
  const digest = sha256(blob)
  const start = await ask(peer, 'POST', `/v2/${name}/blobs/uploads/`)
  const patch = await ask(peer, 'PATCH', String(start.headers.location), blob, { 'content-type': 'application/octet-stream' })
  const location = String(patch.headers.location)
  const put = await ask(peer, 'PUT', `${location}${location.includes('?') ? '&' : '?'}digest=${digest}`)
  if (put.status !== 201) throw new Error(`${peer.name}: PUT blob ${put.status}`)
  return digest
}

/** Pushes an image of one layer under a tag. */
export async function pushImage(
  peer: Peer,
  name: string,
  tag: string,
  layer: Uint8Array,
): Promise<{ manifest: string; layer: string }> {
  const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', id: sha256(layer) }))
  const [layerDigest, configDigest] = [await pushBlob(peer, name, layer), await pushBlob(peer, name, config)]
  const type = 'application/vnd.docker.distribution.manifest.v2+json'
  const text = JSON.stringify({
    schemaVersion: 2,
    mediaType: type,
    config: { mediaType: 'application/vnd.docker.container.image.v1+json', digest: configDigest, size: config.length },
    layers: [{ mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip', digest: layerDigest, size: layer.length }],
    ...(name.endsWith('padded') ? { annotations: { padding: 'x'.repeat(1000) } } : {}),
  })
  const put = await ask(peer, 'PUT', `/v2/${name}/manifests/${tag}`, text, { 'content-type': type })
  if (put.status !== 201) throw new Error(`${peer.name}: PUT manifest ${put.status}`)
  return { manifest: sha256(text), layer: layerDigest }
}

/** Random bytes that differ from call to call without costing a random generator each time. */
export function blobMaker(size: number): () => Uint8Array {
  const base = randomBytes(size)
  let count = 0
  return () => {
    base.writeUInt32LE(++count, 0)
    base.writeUInt32LE(process.pid, 4)
    return base
  }
}
