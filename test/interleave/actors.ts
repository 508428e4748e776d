import type { RegistryContext } from '../../lib/context.ts'
import { type Answer, sha256, type World } from './world.ts'

/** One case's own corner of the registry: a blob, a manifest that needs it, two repositories. */
export interface Corner {
  repository: string
  other: string
  content: string
  digest: string
  manifest: string
  manifestDigest: string
  /** an upload that the seed left open, with the first half of the content, or all of it */
  location: string
  /** What was answered, in the order of the answers: what the last one says must hold at the end. */
  answered: { repository: string; is: 'there' | 'deleted' }[]
}

const manifestType = 'application/vnd.oci.image.manifest.v1+json'

export function cornerOf(name: string): Corner {
  const content = `the content of ${name}, in two halves that differ`
  const digest = sha256(content)
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: 'application/octet-stream', digest, size: content.length },
    layers: [],
  })
  return {
    repository: `${name}/a`,
    other: `${name}/b`,
    content,
    digest,
    manifest,
    manifestDigest: sha256(manifest),
    location: '',
    answered: [],
  }
}

/** What somebody does, from the first request to the last answer. */
export type Act = (world: World, ctx: RegistryContext, corner: Corner) => Promise<void>

function expect(answer: Answer, ...allowed: number[]): Answer {
  if (!allowed.includes(answer.status)) throw new Error(`answered ${answer.status}: ${answer.body}`)
  return answer
}

async function putManifest(world: World, ctx: RegistryContext, corner: Corner, repository: string): Promise<boolean> {
  const path = `/v2/${repository}/manifests/v1`
  const answer = expect(await world.ask(ctx, 'PUT', path, corner.manifest, manifestType), 201, 400)
  if (answer.status === 400 && !`${answer.body}`.includes('MANIFEST_BLOB_UNKNOWN')) throw new Error(`${answer.body}`)
  if (answer.status === 201) corner.answered.push({ repository, is: 'there' })
  return answer.status === 201
}

type Upload = (world: World, ctx: RegistryContext, corner: Corner, repository: string) => Promise<boolean>

const monolithic: Upload = async (world, ctx, corner, repository) =>
  expect(await world.ask(ctx, 'POST', `/v2/${repository}/blobs/uploads/?digest=${corner.digest}`, corner.content), 201, 404)
    .status === 201

const inPieces =
  (patched: number): Upload =>
  async (world, ctx, { content, digest }, repository) => {
    const { location } = expect(await world.ask(ctx, 'POST', `/v2/${repository}/blobs/uploads/`), 202)
    if (expect(await world.ask(ctx, 'PATCH', location, content.slice(0, patched)), 202, 404, 416).status !== 202) return false
    const rest = content.slice(patched)
    return expect(await world.ask(ctx, 'PUT', `${location}?digest=${digest}`, rest), 201, 404, 416).status === 201
  }

/** A client that pushes: it asks whether the blob is there, uploads it where not, puts the manifest, and begins again when it is told to. */
const push =
  (upload: Upload, asksFirst: boolean): Act =>
  async (world, ctx, corner) => {
    for (let round = 0; round < 4; round++) {
      const there = asksFirst && (await world.ask(ctx, 'HEAD', `/v2/${corner.repository}/blobs/${corner.digest}`)).status === 200
      if (!there && !(await upload(world, ctx, corner, corner.repository))) continue
      if (await putManifest(world, ctx, corner, corner.repository)) return
    }
    throw new Error('a push was sent back four times')
  }

const half = 20

export const acts = {
  'pushes in one body': push(monolithic, false),
  'asks and pushes': push(monolithic, true),
  'pushes one PATCH': push(inPieces(1_000), false),
  'pushes PATCH and PUT, joined': push(inPieces(half), true),
  'finishes the open upload': async (world, ctx, corner) => {
    const rest = corner.content.slice((await offsetOf(world, corner)) ?? corner.content.length)
    // 400: it names no offset, so where another has appended meanwhile its bytes come after those.
    const answer = expect(await world.ask(ctx, 'PUT', `${corner.location}?digest=${corner.digest}`, rest), 201, 400, 404, 416)
    if (answer.status === 400 && !`${answer.body}`.includes('DIGEST_INVALID')) throw new Error(`${answer.body}`)
  },
  'appends to the open upload': async (world, ctx, corner) => {
    const offset = (await offsetOf(world, corner)) ?? 0
    const next = corner.content.slice(offset, offset + 5)
    if (next !== '') expect(await world.ask(ctx, 'PATCH', corner.location, next), 202, 404, 416)
  },
  'cancels the open upload': async (world, ctx, corner) => {
    expect(await world.ask(ctx, 'DELETE', corner.location), 204, 404)
  },
  mounts: async (world, ctx, corner) => {
    const from = `mount=${corner.digest}&from=${corner.repository}`
    const answer = expect(await world.ask(ctx, 'POST', `/v2/${corner.other}/blobs/uploads/?${from}`), 201, 202)
    if (answer.status === 202) expect(await world.ask(ctx, 'DELETE', answer.location), 204, 404)
    if (answer.status === 201) await putManifest(world, ctx, corner, corner.other)
  },
  'deletes manifest and blob': async (world, ctx, corner) => {
    const path = `/v2/${corner.repository}`
    if (expect(await world.ask(ctx, 'DELETE', `${path}/manifests/${corner.manifestDigest}`), 202, 404).status === 202)
      corner.answered.push({ repository: corner.repository, is: 'deleted' })
    expect(await world.ask(ctx, 'DELETE', `${path}/blobs/${corner.digest}`), 202, 404, 405)
  },
  undeletes: async (world, ctx, corner) => {
    const path = `/v1/repositories/${corner.repository}/-/undelete`
    const body = JSON.stringify({ reference: corner.manifestDigest })
    const answer = expect(await world.ask(ctx, 'POST', path, body, 'application/json'), 200, 404, 409, 410)
    if (answer.status === 200) corner.answered.push({ repository: corner.repository, is: 'there' })
  },
  'deletes the repository': async (world, ctx, corner) => {
    const path = `/v1/repositories/${corner.repository}`
    if (expect(await world.ask(ctx, 'DELETE', path), 200, 404).status === 200)
      corner.answered.push({ repository: corner.repository, is: 'deleted' })
  },
  'undeletes the repository': async (world, ctx, corner) => {
    const path = `/v1/repositories/${corner.repository}/-/undelete`
    const answer = expect(await world.ask(ctx, 'POST', path, '{}', 'application/json'), 200, 404, 409)
    if (answer.status === 200) corner.answered.push({ repository: corner.repository, is: 'there' })
  },
  pulls: async (world, ctx, corner) => {
    const answer = expect(await world.ask(ctx, 'GET', `/v2/${corner.repository}/blobs/${corner.digest}`), 200, 404)
    if (answer.status === 200 && answer.body.toString() !== corner.content) throw new Error('a body that is not the blob')
  },
  collects: async (world, ctx) => {
    await world.pass(10)
    await world.collect(ctx)
  },
  reaps: (world, ctx) => world.reap(ctx),
  sweeps: (world, ctx) => world.sweep(ctx),
  expires: (world, ctx) => world.expire(ctx),
} satisfies Record<string, Act>
export type ActName = keyof typeof acts

async function offsetOf(world: World, corner: Corner): Promise<number | undefined> {
  const id = corner.location.split('/').at(-1) as string
  const [row] = await world.ctx.metadata.read.all<{ size: number }>('SELECT size FROM uploads WHERE inc = ?', [id])
  return row?.size
}

/** What is there before a case begins. */
export const seeds = {
  nothing: async () => undefined,
  'a loose blob': async (world, corner) => {
    await monolithic(world, world.ctx, corner, corner.repository)
  },
  'an image': async (world, corner) => {
    await acts['pushes in one body'](world, world.ctx, corner)
  },
  'a deleted image': async (world, corner) => {
    await acts['pushes in one body'](world, world.ctx, corner)
    await acts['deletes manifest and blob'](world, world.ctx, corner)
  },
  'a deleted repository': async (world, corner) => {
    await acts['pushes in one body'](world, world.ctx, corner)
    await acts['deletes the repository'](world, world.ctx, corner)
  },
  'garbage in the trash': async (world, corner) => {
    await monolithic(world, world.ctx, corner, corner.repository)
    const { metadata } = world.ctx
    // Collected by rows, not yet reaped.
    await metadata.write(async (sql) => {
      const [blob] = await sql.all<{ inc: string }>('SELECT inc FROM blobs WHERE digest = ?', [corner.digest])
      await sql.run('DELETE FROM repo_blobs WHERE digest = ?', [corner.digest])
      await sql.run('DELETE FROM blobs WHERE digest = ?', [corner.digest])
      await sql.run('INSERT INTO trash(inc, digest, epoch) VALUES (?, ?, 0)', [blob?.inc ?? '', corner.digest])
    })
  },
  'an open upload': (world, corner) => open(world, corner, half),
  'a complete open upload': (world, corner) => open(world, corner, 1_000),
} satisfies Record<string, (world: World, corner: Corner) => Promise<void>>
export type SeedName = keyof typeof seeds

async function open(world: World, corner: Corner, bytes: number): Promise<void> {
  const { location } = expect(await world.ask(world.ctx, 'POST', `/v2/${corner.repository}/blobs/uploads/`), 202)
  corner.location = location
  expect(await world.ask(world.ctx, 'PATCH', location, corner.content.slice(0, bytes)), 202)
}
