// What a look over everything says while something ends beside it, and what requests are told that meet in the middle.
import assert from 'node:assert/strict'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { RegistryContext } from '../../lib/context.ts'
import type { Finding } from '../../lib/verify/finding.ts'
import { verifyStorage } from '../../lib/verify/verify.ts'
import { openWorld, sha256 } from '../interleave/world.ts'

const world = await openWorld()
after(() => world.close(false))
const { ctx } = world
const stop = new AbortController().signal

async function findings(own: RegistryContext): Promise<Finding[]> {
  const found: Finding[] = []
  for await (const verified of verifyStorage(own, { deep: false }, stop))
    if (verified.kind === 'finding') found.push(verified.finding)
  return found
}
const push = async (name: string, content: string) =>
  assert.equal((await world.ask(ctx, 'POST', `/v2/${name}/blobs/uploads/?digest=${sha256(content)}`, content)).status, 201)
async function open(name: string, ...pieces: string[]): Promise<string> {
  let { location } = await world.ask(ctx, 'POST', `/v2/${name}/blobs/uploads/`)
  for (const piece of pieces) ({ location } = await world.ask(ctx, 'PATCH', location, piece, 'application/octet-stream'))
  return location
}
/** The context with one method of a port of it in place of another; methods of ports may be getters of a frozen object. */
const having = (port: 'blobs' | 'metadata', methods: object): RegistryContext =>
  ({ ...ctx, [port]: Object.assign(Object.create(ctx[port]), methods) }) as never

test('a file whose trash is emptied while it is looked at is no orphan', async () => {
  const digest = sha256('goes with the trash')
  await push('look/a', 'goes with the trash')
  await ctx.metadata.write(async (sql) => {
    await sql.run(`DELETE FROM repo_blobs WHERE digest = ?`, [digest])
    const [row] = await sql.all<{ inc: string }>(`DELETE FROM blobs WHERE digest = ? RETURNING inc`, [digest])
    await sql.run(`INSERT INTO trash(inc, digest, epoch) VALUES (?, ?, -9)`, [row?.inc ?? '', digest])
  })
  const looking = having('blobs', {
    async *list() {
      for await (const files of ctx.blobs.list()) {
        await world.reap(ctx)
        yield files
      }
    },
  })
  assert.deepEqual(await findings(looking), [])
})

test('the pieces of an upload that has just ended are no orphans', async () => {
  const location = await open('look/b', 'one and ', 'two')
  let held: Promise<unknown> | undefined
  let go: () => void = () => undefined
  const atDrop = new Promise<void>((resolve) => {
    const finishing = having('blobs', {
      dropSegment: async (inc: string, part: string) => {
        resolve()
        await new Promise<void>((free) => {
          go = free
        })
        return await ctx.blobs.dropSegment(inc, part)
      },
    })
    held = world.ask(finishing, 'PUT', `${location}?digest=${sha256('one and two')}`)
  })
  await atDrop
  setTimeout(() => {
    const all = setInterval(() => go(), 1)
    void held?.then(() => clearInterval(all))
  }, 20)
  const found = await findings(ctx)
  await held
  assert.deepEqual(found, [])
})

test('a blob that is healed while others are looked at is not damaged', async () => {
  await push('look/c', 'rots')
  const [row] = await ctx.metadata.read.all<{ inc: string }>(`SELECT inc FROM blobs WHERE digest = ?`, [sha256('rots')])
  const hex = sha256('rots').slice(7)
  const path = join(world.root, 'blobs/sha256', hex.slice(0, 2), `${hex}.${row?.inc}`)
  chmodSync(path, 0o600)
  writeFileSync(path, 'sort')
  await ctx.metadata.write((sql) => sql.run(`UPDATE blobs SET state = 1 WHERE digest = ?`, [sha256('rots')]))
  let healed = false
  const looking = having('blobs', {
    inspect: async (...args: Parameters<typeof ctx.blobs.inspect>) => {
      if (!healed && args[0] === sha256('rots')) {
        healed = true
        await push('look/c', 'rots')
      }
      return await ctx.blobs.inspect(...args)
    },
  })
  assert.deepEqual(
    (await findings(looking)).filter(({ severity }) => severity === 'damage'),
    [],
  )
})

test('who ends an upload in the middle of another that ends it takes nothing from it', async () => {
  const content = 'in one piece'
  const location = await open('look/d', content)
  const end = `${location}?digest=${sha256(content)}`
  let first: Promise<{ status: number }> | undefined
  let go: () => void = () => undefined
  const second = await world.ask(
    having('blobs', {
      segmentsIntact: async (...args: Parameters<typeof ctx.blobs.segmentsIntact>) => {
        // The first renames now, and waits before its row.
        await new Promise<void>((renamed) => {
          first ??= world.ask(
            having('blobs', {
              commit: async (...more: Parameters<typeof ctx.blobs.commit>) => {
                await ctx.blobs.commit(...more)
                renamed()
                await new Promise<void>((free) => {
                  go = free
                })
              },
            }),
            'PUT',
            end,
          )
        })
        return await ctx.blobs.segmentsIntact(...args)
      },
    }),
    'PUT',
    end,
  )
  go()
  assert.deepEqual([second.status, (await first)?.status], [201, 201])
})

test('who repeats the end of an upload is told that it ended, also when it ends meanwhile', async () => {
  const content = 'ended by the first'
  const location = await open('look/e', content)
  const end = `${location}?digest=${sha256(content)}`
  let first: { status: number } | undefined
  const read = Object.assign(Object.create(ctx.metadata.read), {
    all: async (text: string, args?: never) => {
      if (text.includes('FROM upload_segments')) first ??= await world.ask(ctx, 'PUT', end)
      return await ctx.metadata.read.all(text, args)
    },
  })
  const second = await world.ask(having('metadata', { read }), 'PUT', end)
  assert.deepEqual([first?.status, second.status], [201, 201])
})

test('a tag that moves while it is read is there', async () => {
  const type = 'application/vnd.oci.image.manifest.v1+json'
  const config = { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 }
  const manifest = (n: string) => JSON.stringify({ schemaVersion: 2, mediaType: type, config, layers: [], annotations: { n } })
  await push('look/f', '{}')
  assert.equal((await world.ask(ctx, 'PUT', '/v2/look/f/manifests/v1', manifest('1'), type)).status, 201)
  let moved = false
  const read = Object.assign(Object.create(ctx.metadata.read), {
    all: async (text: string, args?: never) => {
      if (text.includes('FROM manifest_bodies') && !moved) {
        moved = true
        assert.equal((await world.ask(ctx, 'PUT', '/v2/look/f/manifests/v1', manifest('2'), type)).status, 201)
        assert.equal((await world.ask(ctx, 'DELETE', `/v2/look/f/manifests/${sha256(manifest('1'))}`)).status, 202)
        await world.collect(ctx)
      }
      return await ctx.metadata.read.all(text, args)
    },
  })
  const answer = await world.ask(having('metadata', { read }), 'GET', '/v2/look/f/manifests/v1')
  assert.deepEqual([answer.status, moved], [200, true])
})
