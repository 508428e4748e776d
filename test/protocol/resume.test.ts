// Uploads that outlive connections, processes and kills. Runs the build: `npm run build` first.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, readdirSync, renameSync } from 'node:fs'
import { connect } from 'node:net'
import { test } from 'node:test'
import { password, type RegistryProcess, startRegistry } from '../support/process.ts'

const seed = Number(process.env.MCR_TEST_SEED ?? Date.now() % 1_000_000)
let state = seed
/** A small seeded generator: the cuts can be had again by MCR_TEST_SEED. */
const random = (below: number) => {
  state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
  return Math.floor((state / 2_147_483_648) * below)
}

const authorization = `Basic ${btoa(`admin:${password}`)}`
const ask = async (
  registry: RegistryProcess,
  method: string,
  path: string,
  body?: Uint8Array,
  headers: Record<string, string> = {},
) => await fetch(`${registry.url}${path}`, { method, body: body as BodyInit | undefined, headers: { authorization, ...headers } })
const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** Sends the head of a PATCH and a part of its body, then drops the connection. */
async function cutPatch(registry: RegistryProcess, path: string, body: Uint8Array, first: number, bytes: number): Promise<void> {
  const socket = connect(Number(registry.host.split(':')[1]), '127.0.0.1')
  await once(socket, 'connect')
  const range = `Content-Range: ${first}-${first + body.length - 1}`
  socket.write(
    `PATCH ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: ${authorization}\r\nContent-Length: ${body.length}\r\n${range}\r\n\r\n`,
  )
  if (bytes > 0) await new Promise((resolve) => socket.write(body.subarray(0, bytes), resolve))
  socket.destroy()
}

const offsetOf = (response: Response) => {
  const last = Number(/^0-(-?[0-9]+)$/.exec(response.headers.get('range') ?? '')?.[1])
  return last + 1
}

test('20 cut PATCHes, three kills and restarts in between: the upload goes on from the last whole request', async (t) => {
  t.diagnostic(`MCR_TEST_SEED=${seed}`)
  const registry = await startRegistry()
  try {
    const content = randomBytes(6_000_000)
    const location = (await ask(registry, 'POST', '/v2/resume/app/blobs/uploads/')).headers.get('location') as string
    let offset = 0
    let cuts = 0
    while (offset < content.length) {
      const chunk = content.subarray(offset, Math.min(offset + 150_000 + random(200_000), content.length))
      if (cuts < 20) {
        await cutPatch(registry, location, chunk, offset, random(chunk.length))
        cuts++
        if (cuts % 6 === 0) await registry.restart('SIGKILL')
        const status = await ask(registry, 'GET', location)
        assert.equal(status.status, 204)
        assert.equal(offsetOf(status), offset, `after cut ${cuts}`)
      }
      const whole = await ask(registry, 'PATCH', location, chunk, { 'content-range': `${offset}-${offset + chunk.length - 1}` })
      assert.equal(whole.status, 202)
      offset += chunk.length
    }
    assert.equal(cuts, 20)
    await registry.restart('SIGKILL')
    const put = await ask(registry, 'PUT', `${location}?digest=${sha256(content)}`)
    assert.equal(put.status, 201, await put.text())
    const back = Buffer.from(await (await ask(registry, 'GET', `/v2/resume/app/blobs/${sha256(content)}`)).arrayBuffer())
    assert.equal(sha256(back), sha256(content))
  } finally {
    await registry.remove()
  }
})

test('two processes over one data directory: every request of an upload goes to the other one than the last', async () => {
  const first = await startRegistry()
  const second = await startRegistry({ env: { MCR_STORAGE_ROOT: first.dir } })
  try {
    const pair = [first, second] as const
    const content = randomBytes(500_000)
    const location = (await ask(first, 'POST', '/v2/two/app/blobs/uploads/')).headers.get('location') as string
    for (let index = 0; index < 5; index++) {
      const response = await ask(
        pair[(index + 1) % 2] as RegistryProcess,
        'PATCH',
        location,
        content.subarray(index * 100_000, (index + 1) * 100_000),
      )
      assert.equal(response.status, 202)
      assert.equal(offsetOf(await ask(pair[index % 2] as RegistryProcess, 'GET', location)), (index + 1) * 100_000)
    }
    assert.equal((await ask(first, 'PUT', `${location}?digest=${sha256(content)}`)).status, 201)
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.index.v1+json',
        manifests: [{ mediaType: 'x/y', digest: sha256(content), size: content.length }],
      }),
    )
    for (let round = 0; round < 20; round++) {
      const [writer, reader] = [pair[round % 2] as RegistryProcess, pair[(round + 1) % 2] as RegistryProcess]
      const tagged = await ask(writer, 'PUT', '/v2/two/app/manifests/moving', manifest, {
        'content-type': 'application/vnd.oci.image.index.v1+json',
      })
      assert.equal(tagged.status, 201)
      assert.equal((await ask(reader, 'HEAD', '/v2/two/app/manifests/moving')).status, 200)
      assert.equal((await ask(reader, 'DELETE', '/v2/two/app/manifests/moving')).status, 202)
      assert.equal(
        (await ask(writer, 'HEAD', '/v2/two/app/manifests/moving')).status,
        404,
        'a remembered answer must not outlive the row',
      )
    }
  } finally {
    await second.remove()
    await first.remove()
  }
})

test('acknowledged pushes are there after a kill at any moment', async (t) => {
  t.diagnostic(`MCR_TEST_SEED=${seed}`)
  const registry = await startRegistry()
  const acknowledged: string[] = []
  try {
    for (let round = 0; round < 5; round++) {
      let killed = false
      const pushers = Array.from({ length: 4 }, async () => {
        while (!killed) {
          const content = randomBytes(2_000 + random(30_000))
          const digest = sha256(content)
          try {
            const response = await ask(registry, 'POST', `/v2/kill/app/blobs/uploads/?digest=${digest}`, content)
            if (response.status === 201) acknowledged.push(digest)
            else if (!killed) assert.fail(`POST answered ${response.status} ${await response.text()}`)
          } catch (error) {
            if (!killed) throw error
          }
        }
      })
      // On a busy machine the first answers take their time; the kill comes at a random moment after some.
      const before = acknowledged.length
      while (acknowledged.length < before + 5) await new Promise((resolve) => setTimeout(resolve, 10))
      await new Promise((resolve) => setTimeout(resolve, random(250)))
      killed = true
      await registry.restart('SIGKILL')
      await Promise.all(pushers)
    }
    t.diagnostic(`${acknowledged.length} acknowledged blobs over 5 kills`)
    assert.ok(acknowledged.length > 20)
    for (const digest of acknowledged) {
      const bytes = Buffer.from(await (await ask(registry, 'GET', `/v2/kill/app/blobs/${digest}`)).arrayBuffer())
      assert.equal(sha256(bytes), digest)
    }
  } finally {
    await registry.remove()
  }
})

test('a finisher that died between rename and row: the same PUT ends the upload; with another piece first, it has to be pushed again', async () => {
  const registry = await startRegistry()
  try {
    for (const retry of ['PUT', 'PATCH'] as const) {
      const content = randomBytes(50_000)
      const digest = sha256(content)
      const blob = `/v2/dead/app/blobs/${digest}`
      const location = (await ask(registry, 'POST', '/v2/dead/app/blobs/uploads/')).headers.get('location') as string
      assert.equal((await ask(registry, 'PATCH', location, content)).status, 202)
      const part = readdirSync(`${registry.dir}/uploads`).find((file) =>
        location.includes(file.split('.')[0] as string),
      ) as string
      const shard = `${registry.dir}/blobs/sha256/${digest.slice(7, 9)}`
      mkdirSync(shard, { recursive: true })
      renameSync(`${registry.dir}/uploads/${part}`, `${shard}/${digest.slice(7)}.${part.split('.')[0]}`)
      assert.equal((await ask(registry, 'GET', blob)).status, 404, 'no row, no blob')
      if (retry === 'PATCH') {
        const more = randomBytes(10)
        assert.equal((await ask(registry, 'PATCH', location, more)).status, 202)
        for (const bytes of [Buffer.concat([content, more]), content]) {
          const ended = await ask(registry, 'PUT', `${location}?digest=${sha256(bytes)}`)
          assert.deepEqual([ended.status, JSON.parse(await ended.text()).errors[0].code], [404, 'BLOB_UPLOAD_UNKNOWN'])
        }
        assert.equal((await ask(registry, 'POST', `/v2/dead/app/blobs/uploads/?digest=${digest}`, content)).status, 201)
      } else assert.equal((await ask(registry, 'PUT', `${location}?digest=${digest}`)).status, 201)
      const back = Buffer.from(await (await ask(registry, 'GET', blob)).arrayBuffer())
      assert.equal(sha256(back), digest)
    }
  } finally {
    await registry.remove()
  }
})

test('a damaged blob counts as absent and is healed by the next push of its digest', async () => {
  const registry = await startRegistry()
  try {
    const { readdirSync, truncateSync } = await import('node:fs')
    const content = randomBytes(100_000)
    const digest = sha256(content)
    const push = () => ask(registry, 'POST', `/v2/heal/app/blobs/uploads/?digest=${digest}`, content)
    assert.equal((await push()).status, 201)
    const shard = `${registry.dir}/blobs/sha256/${digest.slice(7, 9)}`
    for (const file of readdirSync(shard)) truncateSync(`${shard}/${file}`, 10)
    assert.equal((await ask(registry, 'GET', `/v2/heal/app/blobs/${digest}`)).status, 404)
    assert.equal((await ask(registry, 'HEAD', `/v2/heal/app/blobs/${digest}`)).status, 404)
    assert.equal((await push()).status, 201)
    const back = Buffer.from(await (await ask(registry, 'GET', `/v2/heal/app/blobs/${digest}`)).arrayBuffer())
    assert.equal(sha256(back), digest)
  } finally {
    await registry.remove()
  }
})
