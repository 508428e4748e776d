import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mcrCommand, password } from './process.ts'

export interface Ran {
  status: number | null
  out: string
  err: string
}

/** A command line of the build over one storage root. */
export async function mcr(root: string, args: string[], input = ''): Promise<Ran> {
  const [file, ...first] = mcrCommand()
  const child = spawn(file, [...first, ...args], {
    env: { PATH: process.env.PATH, HOME: root, MCR_STORAGE_ROOT: root, MCR_STORAGE_FREE_FLOOR: '0' },
  })
  let out = ''
  let err = ''
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk
  })
  child.stderr.on('data', (chunk: Buffer) => {
    err += chunk
  })
  child.stdin.end(input)
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, out, err }
}

/** The same, where nothing else has to go on meanwhile. */
export function mcrNow(root: string, args: string[], input = ''): Ran {
  const [file, ...first] = mcrCommand()
  const { status, stdout, stderr } = spawnSync(file, [...first, ...args], {
    encoding: 'utf8',
    input,
    env: { PATH: process.env.PATH, HOME: root, MCR_STORAGE_ROOT: root, MCR_STORAGE_FREE_FLOOR: '0' },
  })
  return { status, out: stdout, err: stderr }
}

export const sha256 = (bytes: Uint8Array | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`
const type = 'application/vnd.oci.image.manifest.v1+json'
const authorization = `Basic ${btoa(`admin:${password}`)}`

/** A client that pushes and deletes until told to stop, and remembers what was acknowledged. */
export interface Load {
  /** `name:tag` → what it must be */
  acknowledged: ReadonlyMap<string, { digest: string; layers: readonly string[] }>
  pushed: number
  deleted: number
  stop(): Promise<void>
}

/** Pushes images that share layers, moves tags and deletes what they leave, so that it never grows beyond 21 images. Its errors end in `stop`. */
export function startLoad(url: string, seed: string): Load {
  const acknowledged = new Map<string, { digest: string; layers: readonly string[] }>()
  const load = { acknowledged, pushed: 0, deleted: 0 }
  let stopped = false
  const run = (async () => {
    for (let at = 0; !stopped; at++) {
      const name = `load/${seed}${at % 3}`
      const layers = [`${seed} own ${at}`.repeat(20), `${seed} shared ${at % 5}`]
      const old = acknowledged.get(`${name}:t${at % 7}`)
      const digest = await pushImage(url, name, `t${at % 7}`, layers)
      acknowledged.set(`${name}:t${at % 7}`, { digest, layers: layers.map(sha256) })
      load.pushed++
      if (old) {
        await send(url, 'DELETE', `/v2/${name}/manifests/${old.digest}`)
        load.deleted++
      }
      if (at % 4 !== 3) continue
      const victim = [...acknowledged.entries()].find(([key]) => key.startsWith(`${name}:`) && key !== `${name}:t${at % 7}`)
      if (!victim) continue
      for (const [key, value] of acknowledged)
        if (key.startsWith(`${name}:`) && value.digest === victim[1].digest) acknowledged.delete(key)
      await send(url, 'DELETE', `/v2/${name}/manifests/${victim[1].digest}`)
      load.deleted++
    }
  })()
  return Object.assign(load, {
    async stop() {
      stopped = true
      await run
    },
  })
}

/** An image whose layers are these texts. What garbage collection without grace takes between layer and manifest is pushed again. */
export async function pushImage(url: string, name: string, tag: string, layers: readonly string[]): Promise<string> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const digest = await tryPushImage(url, name, tag, layers)
    if (digest !== undefined) return digest
  }
  throw new Error(`${name}:${tag} could not be pushed in fifty tries`)
}

async function tryPushImage(url: string, name: string, tag: string, layers: readonly string[]): Promise<string | undefined> {
  for (const layer of [...layers, '{}']) {
    const { status, text } = await send(url, 'POST', `/v2/${name}/blobs/uploads/?digest=${sha256(layer)}`, layer)
    if (status !== 201) throw new Error(`push of a layer: ${status} ${text}`)
  }
  const descriptor = (bytes: string) => ({
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    digest: sha256(bytes),
    size: bytes.length,
  })
  const config = { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 }
  const body = JSON.stringify({ schemaVersion: 2, mediaType: type, config, layers: layers.map(descriptor) })
  const { status, text } = await send(url, 'PUT', `/v2/${name}/manifests/${tag}`, body, { 'content-type': type })
  if (status === 400 && text.includes('MANIFEST_BLOB_UNKNOWN')) return undefined
  if (status !== 201) throw new Error(`push of a manifest: ${status} ${text}`)
  return sha256(body)
}

export async function send(
  url: string,
  method: string,
  path: string,
  body?: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; text: string; headers: Headers }> {
  const response = await fetch(`${url}${path}`, { method, body, headers: { authorization, ...headers }, redirect: 'manual' })
  return { status: response.status, text: await response.text(), headers: response.headers }
}
