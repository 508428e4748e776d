import { ociManifest } from '../support/oci.ts'
import type { Answer, Client } from '../workload/client.ts'
import type { History, Image } from '../workload/history.ts'
import { bytesNamed, sha256 } from '../workload/random.ts'

/** What a scenario works with. `id` is new each time, so that it does the same things to other names. */
export interface Kit {
  id: string
  client: Client
  history: History
  /** Blobs that were answered 201 and that nothing has collected since, as paths. */
  blobs: Map<string, string>
}

export interface Scenario {
  name: string
  /** What must be there before; not traced. */
  before?(kit: Kit): Promise<void>
  /** What is killed at every call that changes the disk. Errors: Died where no answer came. */
  act(kit: Kit): Promise<void>
}

export class Died extends Error {}

/** Errors: Died; a plain Error where another answer came than the scenario is made for. */
async function ask(
  kit: Kit,
  expected: number,
  method: string,
  path: string,
  body?: Uint8Array | string,
  type?: string,
): Promise<Answer> {
  const answer = await kit.client(method, path, { body, headers: type ? { 'content-type': type } : {} })
  if (answer.status === 0) throw new Died(`${method} ${path}`)
  if (answer.status !== expected) throw new Error(`${method} ${path}: ${answer.status} ${answer.body}`)
  return answer
}

const content = (kit: Kit, what: string, length = 5_000) => bytesNamed(`${kit.id} ${what}`, length)
const repository = (kit: Kit) => `point/${kit.id}`

async function pushWhole(kit: Kit, bytes: Buffer, name = repository(kit)): Promise<string> {
  const digest = sha256(bytes)
  await ask(kit, 201, 'POST', `/v2/${name}/blobs/uploads/?digest=${digest}`, bytes)
  kit.blobs.set(`/v2/${name}/blobs/${digest}`, digest)
  return digest
}

function imageOf(kit: Kit): { image: Image; config: Buffer; layer: Buffer } {
  const layer = content(kit, 'layer')
  const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', id: kit.id }))
  const entry = (bytes: Buffer, mediaType: string) => ({ mediaType, digest: sha256(bytes), size: bytes.length })
  const text = JSON.stringify({
    schemaVersion: 2,
    mediaType: ociManifest,
    config: entry(config, 'application/vnd.oci.image.config.v1+json'),
    layers: [entry(layer, 'application/vnd.oci.image.layer.v1.tar')],
  })
  const blobs = [config, layer].map((bytes) => ({ digest: sha256(bytes), size: bytes.length }))
  return { image: { repository: repository(kit), digest: sha256(text), text, type: ociManifest, blobs }, config, layer }
}

async function pushBlobs(kit: Kit): Promise<void> {
  const { config, layer } = imageOf(kit)
  await pushWhole(kit, config)
  await pushWhole(kit, layer)
}

/** Runs `work` and notes that it happened, or that nobody knows. */
async function noting(work: () => Promise<unknown>, note: (outcome: 'done' | 'unknown') => void): Promise<void> {
  try {
    await work()
    note('done')
  } catch (error) {
    if (error instanceof Died) note('unknown')
    throw error
  }
}

async function putImage(kit: Kit): Promise<void> {
  const { image } = imageOf(kit)
  await noting(
    () => ask(kit, 201, 'PUT', `/v2/${image.repository}/manifests/v1`, image.text, image.type),
    (outcome) => kit.history.pushed(image, ['v1'], outcome),
  )
}

async function pushImage(kit: Kit): Promise<void> {
  await pushBlobs(kit)
  await putImage(kit)
}

async function deleteImage(kit: Kit): Promise<void> {
  const { image } = imageOf(kit)
  for (const { digest } of image.blobs) kit.blobs.delete(`/v2/${image.repository}/blobs/${digest}`)
  await noting(
    () => ask(kit, 202, 'DELETE', `/v2/${image.repository}/manifests/${image.digest}`),
    (outcome) => kit.history.deleted(image, outcome),
  )
}

export const scenarios: readonly Scenario[] = [
  {
    name: 'push, one segment',
    async act(kit) {
      const bytes = content(kit, 'one', 70_000)
      const start = await ask(kit, 202, 'POST', `/v2/${repository(kit)}/blobs/uploads/`)
      await ask(kit, 202, 'PATCH', `${start.headers.location}`, bytes)
      await ask(kit, 201, 'PUT', `${start.headers.location}?digest=${sha256(bytes)}`)
      kit.blobs.set(`/v2/${repository(kit)}/blobs/${sha256(bytes)}`, sha256(bytes))
    },
  },
  {
    name: 'push, several segments',
    async act(kit) {
      const bytes = content(kit, 'several', 9_000)
      const start = await ask(kit, 202, 'POST', `/v2/${repository(kit)}/blobs/uploads/`)
      await ask(kit, 202, 'PATCH', `${start.headers.location}`, bytes.subarray(0, 4_000))
      await ask(kit, 202, 'PATCH', `${start.headers.location}`, bytes.subarray(4_000, 8_000))
      await ask(kit, 201, 'PUT', `${start.headers.location}?digest=${sha256(bytes)}`, bytes.subarray(8_000))
      kit.blobs.set(`/v2/${repository(kit)}/blobs/${sha256(bytes)}`, sha256(bytes))
    },
  },
  {
    name: 'mount',
    before: async (kit) => void (await pushWhole(kit, content(kit, 'mounted'), `${repository(kit)}/source`)),
    async act(kit) {
      const digest = sha256(content(kit, 'mounted'))
      await ask(kit, 201, 'POST', `/v2/${repository(kit)}/blobs/uploads/?mount=${digest}&from=${repository(kit)}/source`)
      kit.blobs.set(`/v2/${repository(kit)}/blobs/${digest}`, digest)
    },
  },
  { name: 'manifest', before: pushBlobs, act: putImage },
  {
    name: 'delete',
    async before(kit) {
      await pushImage(kit)
      await pushWhole(kit, content(kit, 'unneeded'))
    },
    async act(kit) {
      const { image } = imageOf(kit)
      const unneeded = `/v2/${image.repository}/blobs/${sha256(content(kit, 'unneeded'))}`
      kit.blobs.delete(unneeded)
      await ask(kit, 202, 'DELETE', unneeded)
      await noting(
        () => ask(kit, 202, 'DELETE', `/v2/${image.repository}/manifests/v1`),
        (outcome) => kit.history.untagged(image.repository, 'v1', outcome),
      )
      await deleteImage(kit)
    },
  },
  {
    name: 'collection',
    async before(kit) {
      await pushImage(kit)
      await deleteImage(kit)
      const start = await ask(kit, 202, 'POST', `/v2/${repository(kit)}/blobs/uploads/`)
      await ask(kit, 202, 'PATCH', `${start.headers.location}`, content(kit, 'left open', 300))
    },
    async act(kit) {
      kit.blobs.clear()
      const asked = await kit.client('POST', '/v1/gc', { body: '{"now":true}', headers: { 'content-type': 'application/json' } })
      if (asked.status === 0) throw new Died('POST /v1/gc')
      // 409: the run that the last kill left behind, which this process takes over.
      if (asked.status !== 202 && asked.status !== 409) throw new Error(`POST /v1/gc: ${asked.status} ${asked.body}`)
      for (;;) {
        const status = await ask(kit, 200, 'GET', '/v1/gc/status')
        if (!(JSON.parse(status.body.toString()) as { running: boolean }).running) return
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    },
  },
]
