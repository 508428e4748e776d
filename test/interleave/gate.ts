import type { BlobStore } from '../../lib/blobs/blob-store.ts'
import type { RegistryContext } from '../../lib/context.ts'
import type { MetadataStore, Sql } from '../../lib/metadata/sql.ts'

/** Where one actor can be held: before any of its calls of the ports, by number. */
export interface Gate {
  /** Called before each call of a port. */
  pass(call: string): Promise<void>
  /** The calls so far. */
  readonly calls: readonly string[]
  /** Settles when the actor stands before the call it is to be held at. */
  readonly reached: Promise<void>
  release(): void
}

/** A gate that holds its actor before call number `at`, from 0; without a number it only counts. */
export function createGate(at?: number): Gate {
  const calls: string[] = []
  const reached = Promise.withResolvers<void>()
  const released = Promise.withResolvers<void>()
  return {
    calls,
    reached: reached.promise,
    release: released.resolve,
    async pass(call) {
      calls.push(call)
      if (calls.length - 1 !== at) return
      reached.resolve()
      await released.promise
    },
  }
}

/** The context of one actor: the real one, with a gate before its database and its files. */
export function gated(ctx: RegistryContext, gate: Gate, clockAheadMs = 0): RegistryContext {
  return {
    ...ctx,
    now: () => ctx.now() + clockAheadMs,
    metadata: gatedMetadata(ctx.metadata, gate),
    blobs: gatedBlobs(ctx.blobs, gate),
  }
}

function gatedMetadata(store: MetadataStore, gate: Gate): MetadataStore {
  const read: Sql = {
    async all(text, args) {
      await gate.pass(`read ${text.trim().replace(/\s+/g, ' ').slice(0, 60)}`)
      return await store.read.all(text, args)
    },
    async run(text, args) {
      await gate.pass('read run')
      return await store.read.run(text, args)
    },
  }
  return {
    ...store,
    read,
    async write(work) {
      await gate.pass('write')
      return await store.write(work)
    },
  }
}

/** Every member of the port is a call that can be held before; the list of files also between seeing files and telling of them. */
function gatedBlobs(store: BlobStore, gate: Gate): BlobStore {
  return new Proxy(store, {
    get(target, name) {
      const member = Reflect.get(target, name)
      if (typeof member !== 'function') return member
      if (name === 'list') return list
      return async (...args: unknown[]) => {
        await gate.pass(`blobs.${String(name)}`)
        return await member.apply(target, args)
      }
    },
  })
  async function* list() {
    await gate.pass('blobs.list')
    for await (const files of store.list()) {
      await gate.pass('blobs.list has seen files')
      yield files
    }
  }
}
