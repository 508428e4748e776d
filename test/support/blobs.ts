import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import type { TestContext } from 'node:test'
import type { BlobStore } from '../../lib/blobs/blob-store.ts'
import type { Algorithm, Digest } from '../../lib/oci/digest.ts'
import { type BlobsFsOptions, openBlobsFs } from '../../runtime/blobs-fs.ts'

/** A blob store on real files in a directory of its own, gone after the test. */
export async function openTestBlobs(
  t: TestContext,
  overrides: Partial<BlobsFsOptions> = {},
  base = tmpdir(),
): Promise<{ store: BlobStore; root: string; options: BlobsFsOptions; openFiles: () => number; rmdir: (path: string) => void }> {
  const root = mkdtempSync(join(base, 'mcr-blobs-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const options: BlobsFsOptions = {
    layersPath: join(root, 'blobs'),
    uploadsPath: join(root, 'uploads'),
    minBytesPerSecond: 1024,
    rateWindowMs: 60_000,
    ...overrides,
  }
  return { store: await openBlobsFs(options), root, options, openFiles: countOpenFiles, rmdir: rmdirSync }
}

/** The same bytes for the same length, without a pattern that a shifted copy would repeat. */
export function randomBytesOf(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length)
  let state = (length ^ 0x9e3779b9) >>> 0
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[at] = state >>> 24
  }
  return bytes
}

export const digestOf = (bytes: Uint8Array, algorithm: Algorithm = 'sha256') =>
  `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as Digest

/** A Node stream of chunks such as a socket brings. */
export function source(bytes: Uint8Array): Readable {
  let at = 0
  return new Readable({
    read() {
      if (at >= bytes.length) return void this.push(null)
      const chunk = bytes.subarray(at, at + 65_536)
      at += chunk.length
      this.push(chunk)
    },
  })
}

/** Everything a response body holds. */
export async function bytesOf(body: BodyInit | undefined): Promise<Buffer> {
  if (body === undefined) throw new Error('no body')
  if (body instanceof Uint8Array) return Buffer.from(body)
  const chunks: Uint8Array[] = []
  for await (const chunk of body as unknown as Readable) chunks.push(chunk)
  return Buffer.concat(chunks)
}

export async function storeBlob(store: BlobStore, incarnation: string, content: Uint8Array): Promise<Digest> {
  const segment = await store.writeSegment(incarnation, source(content), { limit: content.length })
  await store.commit(incarnation, segment.part, segment.sha256)
  return segment.sha256
}

/** Every file of a store, without its marker. */
export function treeOf(root: string): string[] {
  return (
    readdirSync(root, { recursive: true, withFileTypes: true }) as { name: string; parentPath: string; isDirectory(): boolean }[]
  )
    .filter((entry) => !entry.isDirectory() && entry.name !== '.mcr-blobs')
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort()
}

/** Descriptors of regular files this process has open. */
function countOpenFiles(): number {
  return readdirSync('/proc/self/fd').length
}
