import { setTimeout as sleep } from 'node:timers/promises'
import { ociIndex, ociManifest } from '../support/oci.ts'
import type { Client } from './client.ts'
import type { History, Image, KnownImage } from './history.ts'
import { type Blob, type Finding, pushBlob, unanswered } from './push-blob.ts'
import { bytesNamed, createRandom, type Random, sha256 } from './random.ts'

export interface Clients {
  /** Lets them go on. */
  go(): void
  /** Waits until each has had its answer, or none, and holds them there. */
  hold(): Promise<void>
  /** Lets them do that many more things, by which the tests count: a slow machine shall not make them test less. */
  after(actions: number): Promise<void>
  /** Ends them. */
  end(): Promise<void>
}

/** The longest that `after` waits: with every process stopped nothing is done any more. */
const afterMostMs = 10_000

export interface ClientsOptions {
  seed: number
  count: number
  client: Client
  history: History
  finding: Finding
  /** Images of one client that it keeps at most: beyond that it deletes. */
  keep?: number
}

/** Contents that many images share, so that blobs are mounted, linked twice, let go and brought again. */
const sharedLayers = 12

/**
 * Clients that push, retag, delete and read small images without pause, each in a repository of its own and in one that all share, where
 * its names begin with its own. What they are told goes into the history; what no registry may answer is a finding.
 */
export function startClients({ seed, count, client, history, finding, keep = 12 }: ClientsOptions): Clients {
  let held: Promise<void> | undefined
  let release: () => void = () => undefined
  let ended = false
  let broken: unknown
  let done = 0
  const resting = new Set<number>()
  let onRest: () => void = () => undefined
  const hold = async () => {
    held ??= new Promise((resolve) => {
      release = resolve
    })
    while (resting.size < count && broken === undefined)
      await new Promise<void>((resolve) => {
        onRest = resolve
      })
    if (broken !== undefined) throw broken
  }
  const go = () => {
    held = undefined
    release()
  }
  const loops = Array.from({ length: count }, async (_, index) => {
    const random = createRandom(seed * 1000 + index)
    const actor = createActor({ name: `c${index}`, count, client, random, history, finding, keep })
    try {
      while (!ended) {
        if (held) {
          resting.add(index)
          onRest()
          await held
          resting.delete(index)
          continue
        }
        await actor()
        done++
      }
    } catch (error) {
      broken = error
      onRest()
    }
  })
  void hold()
  return {
    go,
    hold,
    async after(actions) {
      const target = done + actions
      for (const deadline = Date.now() + afterMostMs; done < target && broken === undefined && Date.now() < deadline; )
        await sleep(5)
    },
    async end() {
      ended = true
      go()
      await Promise.all(loops)
      if (broken !== undefined) throw broken
    },
  }
}

interface Own {
  name: string
  count: number
  client: Client
  random: Random
  history: History
  finding: Finding
  keep: number
}

/** One thing that one client does. */
function createActor({ name, count, client, random, history, finding, keep }: Own): () => Promise<void> {
  const repositories = [`own/${name}`, 'shared/all']
  const others = Array.from({ length: count }, (_, index) => `own/c${index}`)
  const own = new Map<string, KnownImage>()
  const recent: { image: Image; blobs: readonly Blob[] }[] = []
  let made = 0

  const mine = () => {
    for (const known of history.touched.images)
      if (known.repository === repositories[0] || known.text.includes(`"${name} `))
        own.set(`${known.repository}@${known.digest}`, known)
    for (const [key, known] of own) if (!known.may.has('here')) own.delete(key)
    return [...own.values()]
  }
  const certain = () => mine().filter(({ may }) => may.size === 1)
  const tagName = () => `${name}-t${random.between(0, 7)}`

  async function putManifest(
    image: Image,
    reference: string,
    tags: readonly string[],
    repush?: (digest: string) => Promise<boolean>,
  ) {
    for (let attempt = 0; attempt < 40; attempt++) {
      const answer = await client('PUT', `/v2/${image.repository}/manifests/${reference}`, {
        body: image.text,
        headers: { 'content-type': image.type },
      })
      if (answer.status === 201) return history.pushed(image, tags, 'done')
      if (answer.status === 503) continue
      if (answer.status === 0) {
        if (answer.sent) history.pushed(image, tags, 'unknown')
        if (random.chance(0.5)) return
        continue
      }
      const missing = missingIn(answer.body)
      if (answer.status !== 400 || missing.length === 0 || !repush)
        return finding(`PUT ${image.repository}@${image.digest} as ${reference}: ${answer.status} ${answer.body}`)
      // Collected between its upload and now, which is allowed where nothing stays warm.
      for (const digest of missing) if (!(await repush(digest))) return
    }
  }

  async function pushImage() {
    const repository = random.pick(repositories)
    const layers: Blob[] = []
    const blob = (content: Buffer): Blob => ({ bytes: content, digest: sha256(content) })
    for (let shared = random.between(0, 2); shared > 0; shared--) {
      const which = random.between(0, sharedLayers - 1)
      layers.push(blob(bytesNamed(`shared ${which}`, 300 + which * 997)))
    }
    const id = `${name} ${made++}`
    if (layers.length === 0 || random.chance(0.5)) layers.push(blob(bytesNamed(`layer ${id}`, random.between(1, 20_000))))
    const config = blob(Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', id })))
    const type = 'application/vnd.oci.image.layer.v1.tar'
    const unique = [...new Map(layers.map((layer) => [layer.digest, layer])).values()]
    const text = JSON.stringify({
      schemaVersion: 2,
      mediaType: ociManifest,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: config.digest, size: config.bytes.length },
      layers: unique.map(({ digest, bytes }) => ({ mediaType: type, digest, size: bytes.length })),
      annotations: { id },
    })
    const blobs = [config, ...unique]
    const image: Image = {
      repository,
      digest: sha256(text),
      text,
      type: ociManifest,
      blobs: blobs.map(({ digest, bytes }) => ({ digest, size: bytes.length })),
    }
    recent.push({ image, blobs })
    if (recent.length > 8) recent.shift()
    await pushWhole(image, blobs)
  }

  async function pushWhole(image: Image, blobs: readonly Blob[]) {
    const push = async (digest: string) => {
      const found = blobs.find((entry) => entry.digest === digest)
      return found !== undefined && (await pushBlob(client, random, finding, image.repository, found, others))
    }
    for (const { digest } of blobs) if (!(await push(digest))) return
    const tag = random.chance(0.8) ? tagName() : undefined
    await putManifest(image, tag ?? image.digest, tag === undefined ? [] : [tag], push)
  }

  /** The same image once more: it stands, or was deleted, or is being collected just now. */
  async function pushAgain() {
    if (recent.length === 0) return await pushImage()
    const { image, blobs } = random.pick(recent)
    await pushWhole(image, blobs)
  }

  async function pushIndex() {
    const repository = random.pick(repositories)
    const children = certain().filter((image) => image.repository === repository && image.type === ociManifest)
    if (children.length < 2) return
    const manifests = [random.pick(children), random.pick(children)].map(({ digest, text, type }) => ({
      mediaType: type,
      digest,
      size: text.length,
    }))
    const annotations = { id: `${name} ${made++}` }
    const text = JSON.stringify({ schemaVersion: 2, mediaType: ociIndex, manifests, annotations })
    const tag = tagName()
    await putManifest({ repository, digest: sha256(text), text, type: ociIndex, blobs: [] }, tag, [tag])
  }

  /** What stands needs nothing but its own bytes: its blobs are kept by it. */
  async function retag() {
    const images = certain().filter(({ type }) => type === ociManifest)
    if (images.length === 0) return await pushImage()
    const tag = tagName()
    await putManifest(random.pick(images), tag, [tag])
  }

  async function untag() {
    const repository = random.pick(repositories)
    const tag = tagName()
    const before = history.tags().find((known) => known.repository === repository && known.tag === tag)
    const answer = await client('DELETE', `/v2/${repository}/manifests/${tag}`)
    if (answer.status === 202 || answer.status === 404) {
      const impossible = before === undefined || !before.may.has('') ? 404 : before.may.size === 1 ? 202 : 0
      if (before && answer.status === impossible)
        finding(`DELETE ${repository}:${tag}: ${answer.status}, and it may be ${[...before.may]}`)
      if (before) history.untagged(repository, tag, 'done')
    } else if (answer.status === 0) {
      if (answer.sent && before) history.untagged(repository, tag, 'unknown')
    } else if (answer.status !== 503) finding(`DELETE ${repository}:${tag}: ${answer.status} ${answer.body}`)
  }

  async function deleteImage() {
    const images = mine()
    if (images.length === 0) return
    const image = random.pick(images)
    const sure = image.may.size === 1
    const answer = await client('DELETE', `/v2/${image.repository}/manifests/${image.digest}`)
    if (answer.status === 202 || (answer.status === 404 && !sure)) history.deleted(image, 'done')
    else if (answer.status === 0) {
      if (answer.sent) history.deleted(image, 'unknown')
    } else if (answer.status !== 503) finding(`DELETE ${image.repository}@${image.digest}: ${answer.status} ${answer.body}`)
  }

  /** Takes a blob's link away; 405 while an image needs it. */
  async function deleteBlob() {
    const image = random.pick(mine().filter(({ blobs }) => blobs.length > 0))
    if (!image) return
    const answer = await client('DELETE', `/v2/${image.repository}/blobs/${random.pick(image.blobs).digest}`)
    const fits = answer.status === 405 || (image.may.has('gone') && (answer.status === 202 || answer.status === 404))
    if (!fits && !unanswered(answer))
      finding(`DELETE a blob of ${image.repository}@${image.digest}: ${answer.status} ${answer.body}`)
  }

  async function pull() {
    const images = certain()
    if (images.length === 0) return
    const image = random.pick(images)
    const path = `/v2/${image.repository}`
    const manifest = await client('GET', `${path}/manifests/${image.digest}`)
    if (unanswered(manifest)) return
    if (manifest.status !== 200 || manifest.body.toString() !== image.text)
      return finding(`GET ${image.repository}@${image.digest}: ${manifest.status} ${manifest.body}`)
    if (image.blobs.length === 0) return
    const { digest } = random.pick(image.blobs)
    const blob = await client('GET', `${path}/blobs/${digest}`)
    if (unanswered(blob)) return
    if (blob.status !== 200 || sha256(blob.body) !== digest)
      finding(`GET ${path}/blobs/${digest} of ${image.digest}: ${blob.status}, ${blob.body.length} bytes`)
  }

  return async () => {
    const way = random() + (mine().length > keep ? 0.25 : 0)
    if (way < 0.46) await pushImage()
    else if (way < 0.5) await pushAgain()
    else if (way < 0.56) await pushIndex()
    else if (way < 0.64) await retag()
    else if (way < 0.72) await pull()
    else if (way < 0.76) await deleteBlob()
    else if (way < 0.84) await untag()
    else await deleteImage()
  }
}

function missingIn(body: Buffer): string[] {
  try {
    const { errors } = JSON.parse(body.toString()) as { errors: { code: string; detail?: { digest?: string } }[] }
    return errors.flatMap(({ code, detail }) => (code === 'MANIFEST_BLOB_UNKNOWN' && detail?.digest ? [detail.digest] : []))
  } catch {
    return []
  }
}
