import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import type { Machine } from './machine.ts'
import { findTool } from './process.ts'

const exec = promisify(execFile)

/** Pushes and pulls of real clients, one after another for each of them, until stopped. */
export interface ClientLoad {
  counts(): { pushes: number; pulls: number; failures: readonly string[] }
  stop(): Promise<void>
}

/** crane, oras and skopeo; each image is new, is pulled back, and must be what was pushed. Errors: a client that is not installed. */
export function startClients(
  machine: Pick<Machine, 'inNetwork'>,
  options: { host: string; password: string; ca: string; scratch: string },
): ClientLoad {
  const { host, password, ca, scratch } = options
  const done = { pushes: 0, pulls: 0, failures: [] as string[] }
  let stopping = false
  const auth = Buffer.from(`admin:${password}`).toString('base64')
  writeFileSync(join(scratch, 'config.json'), JSON.stringify({ auths: { [host]: { auth } } }), { mode: 0o600 })
  const env = {
    PATH: process.env.PATH,
    HOME: scratch,
    DOCKER_CONFIG: scratch,
    REGISTRY_AUTH_FILE: join(scratch, 'config.json'),
    SSL_CERT_FILE: ca,
  }
  const run = async (name: string, args: readonly string[], cwd?: string) => {
    const tool = findTool(name)
    if (!tool) throw new Error(`${name} is not installed: .ci/install-clients installs it`)
    const [file, words] = machine.inNetwork(tool, args)
    const began = new Date().toISOString()
    try {
      return (await exec(file, words, { env, cwd, maxBuffer: 16 * 2 ** 20 })).stdout
    } catch (error) {
      throw new Error(`${began} ${name} ${args.join(' ')}: ${(error as { stderr?: string }).stderr ?? (error as Error).message}`)
    }
  }

  const lanes: Record<string, (turn: number, folder: string) => Promise<void>> = {
    async crane(turn, folder) {
      const digest = makeLayout(folder)
      const reference = `${host}/load/crane:${turn}`
      await run('crane', ['push', folder, reference])
      done.pushes++
      await run('crane', ['validate', '--remote', reference])
      equal((await run('crane', ['digest', reference])).trim(), digest, reference)
      done.pulls++
    },
    async skopeo(turn, folder) {
      const digest = makeLayout(folder)
      const reference = `docker://${host}/load/skopeo:${turn}`
      await run('skopeo', ['copy', '--quiet', '--preserve-digests', `oci:${folder}`, reference])
      done.pushes++
      await run('skopeo', ['copy', '--quiet', '--preserve-digests', reference, `oci:${folder}-back`])
      const index = JSON.parse(readFileSync(join(`${folder}-back`, 'index.json'), 'utf8')) as { manifests: { digest: string }[] }
      equal(index.manifests[0]?.digest as string, digest, reference)
      done.pulls++
    },
    async oras(turn, folder) {
      const content = randomBytes(512 * 1024)
      mkdirSync(`${folder}-back`, { recursive: true })
      writeFileSync(join(folder, 'file.bin'), content)
      const reference = `${host}/load/oras:${turn}`
      await run('oras', ['push', '--no-tty', '--plain-http=false', reference, 'file.bin:application/octet-stream'], folder)
      done.pushes++
      await run('oras', ['pull', '--no-tty', '--plain-http=false', '-o', `${folder}-back`, reference], folder)
      equal(sha256(readFileSync(join(`${folder}-back`, 'file.bin'))), sha256(content), reference)
      done.pulls++
    },
  }
  const running = Object.entries(lanes).map(async ([name, work]) => {
    for (let turn = 0; !stopping; turn++) {
      const folder = join(scratch, `${name}-${turn}`)
      mkdirSync(folder, { recursive: true })
      try {
        await work(turn, folder)
      } catch (error) {
        done.failures.push((error as Error).message)
        if (done.failures.length > 20) stopping = true
      }
      for (const path of [folder, `${folder}-back`]) rmSync(path, { recursive: true, force: true })
    }
  })
  return {
    counts: () => done,
    async stop() {
      stopping = true
      await Promise.all(running)
    },
  }
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

function equal(actual: string, expected: string, what: string): void {
  if (actual !== expected) throw new Error(`${what}: pushed ${expected}, pulled ${actual}`)
}

/** An image of two new layers as an OCI layout. Shape: the digest of its manifest. */
function makeLayout(folder: string): string {
  const blobs = join(folder, 'blobs/sha256')
  mkdirSync(blobs, { recursive: true })
  const put = (mediaType: string, bytes: Uint8Array) => {
    writeFileSync(join(blobs, sha256(bytes)), bytes)
    return { mediaType, digest: `sha256:${sha256(bytes)}`, size: bytes.length }
  }
  const json = (value: object) => new TextEncoder().encode(JSON.stringify(value))
  const tars = [tarOf('a', randomBytes(700_000)), tarOf('b', randomBytes(40_000))]
  const layers = tars.map((tar) => put('application/vnd.oci.image.layer.v1.tar+gzip', gzipSync(tar, { level: 1 })))
  const rootfs = { type: 'layers', diff_ids: tars.map((tar) => `sha256:${sha256(tar)}`) }
  const config = put('application/vnd.oci.image.config.v1+json', json({ architecture: 'amd64', os: 'linux', config: {}, rootfs }))
  const mediaType = 'application/vnd.oci.image.manifest.v1+json'
  const manifest = put(mediaType, json({ schemaVersion: 2, mediaType, config, layers }))
  writeFileSync(join(folder, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  writeFileSync(join(folder, 'index.json'), json({ schemaVersion: 2, manifests: [manifest] }))
  return manifest.digest
}

/** A tar of one file.  Source: POSIX ustar. */
function tarOf(name: string, content: Uint8Array): Uint8Array {
  const head = Buffer.alloc(512)
  const field = (at: number, text: string) => head.write(text, at, 'latin1')
  field(0, name)
  field(100, '0000644\0')
  field(108, '0000000\0')
  field(116, '0000000\0')
  field(124, `${content.length.toString(8).padStart(11, '0')}\0`)
  field(136, '00000000000\0')
  field(148, '        ')
  field(156, '0')
  field(257, 'ustar\x0000')
  const sum = head.reduce((total, byte) => total + byte, 0)
  field(148, `${sum.toString(8).padStart(6, '0')}\0 `)
  const padding = Buffer.alloc((512 - (content.length % 512)) % 512)
  return Buffer.concat([head, content, padding, Buffer.alloc(1024)])
}
