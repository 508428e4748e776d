import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Exchange, RegistryContext } from '../../lib/context.ts'
import { askForCollection, collectGarbage } from '../../lib/jobs/collect-garbage.ts'
import { expireUploads } from '../../lib/jobs/expire-uploads.ts'
import { reapTrash } from '../../lib/jobs/reap-trash.ts'
import { sweepOrphans } from '../../lib/jobs/sweep-orphans.ts'
import { createApp } from '../../runtime/app.ts'
import { loadConfig } from '../../runtime/config.ts'
import { loadHandlers, makeAssets } from '../support/assets.ts'

const password = 'correct horse battery staple'
export const sha256 = (bytes: Uint8Array | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

export interface Answer {
  status: number
  body: Buffer
  location: string
}

/** The registry in this process, over a real database and real files, without sockets. */
export interface World {
  ctx: RegistryContext
  root: string
  ask(ctx: RegistryContext, method: string, path: string, body?: Uint8Array | string, type?: string): Promise<Answer>
  /** Time that passes for the registry: epochs. */
  pass(epochs: number): Promise<void>
  collect(ctx: RegistryContext): Promise<void>
  reap(ctx: RegistryContext): Promise<void>
  sweep(ctx: RegistryContext): Promise<void>
  expire(ctx: RegistryContext): Promise<void>
  /** Every file with blob bytes, by path below the root. */
  files(): string[]
  read(path: string): Buffer
  /** Ends it; its folder goes, unless it is to be looked at. */
  close(keep: boolean): Promise<void>
}

export async function openWorld(): Promise<World> {
  const root = mkdtempSync(join(tmpdir(), 'mcr-interleave-'))
  const loaded = loadConfig({
    env: {
      MCR_STORAGE_ROOT: root,
      MCR_AUTH_BOOTSTRAP_PASSWORD: password,
      MCR_LOG_LEVEL: 'error',
      MCR_STORAGE_FREE_FLOOR: '0',
    },
  })
  if ('problems' in loaded) throw new Error(JSON.stringify(loaded.problems))
  const handlers = await loadHandlers()
  const app = await createApp(loaded.config, makeAssets(handlers), Object.values(handlers), (error) => {
    throw error
  })
  const { ctx } = app
  const signal = new AbortController().signal
  const authorization = `Basic ${btoa(`admin:${password}`)}`
  return {
    ctx,
    root,
    async ask(own, method, path, body, type) {
      const bytes = typeof body === 'string' ? Buffer.from(body) : body
      const headers: Record<string, string> = { authorization, host: 'registry' }
      if (bytes) headers['content-length'] = String(bytes.length)
      if (type) headers['content-type'] = type
      const exchange: Exchange = { id: 'x', address: '127.0.0.1', origin: 'http://registry', proceed: () => undefined }
      const request = new Request(`http://registry${path}`, { method, headers, body: bytes as never })
      const response = await app.fetch(request, own, exchange)
      if (response.status >= 500) throw new Error(`${method} ${path}: ${response.status}`, { cause: exchange.cause })
      return {
        status: response.status,
        body: Buffer.from(await response.arrayBuffer()),
        location: response.headers.get('location') ?? '',
      }
    },
    async pass(epochs) {
      await ctx.metadata.write((sql) => sql.run('UPDATE instance SET epoch = epoch + ?', [epochs]))
    },
    async collect(own) {
      const id = await askForCollection(own, 'test', { dryRun: false, now: true })
      if (id === undefined) return
      const run = await collectGarbage(own, id, 'test', signal, 'ends')
      if (run?.error) throw new Error(`collection: ${run.error}`)
    },
    async reap(own) {
      await reapTrash.run(own, signal)
    },
    async sweep(own) {
      for await (const _found of sweepOrphans(own, { dryRun: false }));
    },
    async expire(own) {
      // Everything is idle: whatever has a row was touched before a moment from now.
      const limits = { ...own.limits, uploadIdleMs: -3_600_000 }
      await expireUploads.run({ ...own, limits, retention: { ...own.retention, coldAfter: 0 } }, signal)
    },
    files: () =>
      ['blobs', 'uploads'].flatMap((folder) =>
        readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile() && !entry.name.startsWith('.'))
          .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1)),
      ),
    read: (path) => readFileSync(join(root, path)),
    async close(keep) {
      await app.close()
      if (!keep) rmSync(root, { recursive: true, force: true })
    },
  }
}
