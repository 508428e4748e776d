import type { Client } from './client.ts'
import type { History, KnownImage, KnownTag } from './history.ts'
import { type Finding, unanswered } from './push-blob.ts'
import { sha256 } from './random.ts'

const atOnce = 8

/**
 * Asks the registry for what its clients were promised: every image that stands is whole and exact, what was deleted is gone, tags point
 * where they may. What nobody knew is known afterwards. Needs quiet clients and a commit since the last kill: what a killed process left
 * in the log without being seen can then not appear any more.
 * `which`: what changed since the last time, with a sample of the rest, or everything.  Shape: how many images and blobs were read.
 */
export async function checkAnswers(
  client: Client,
  history: History,
  finding: Finding,
  which: 'touched' | 'everything',
  sample: (image: KnownImage) => boolean = () => false,
): Promise<{ images: number; blobs: number; tags: number }> {
  const counts = { images: 0, blobs: 0, tags: 0 }
  const ask = async (path: string) => {
    for (let attempt = 0; ; attempt++) {
      const answer = await client('GET', path)
      if (!unanswered(answer) || attempt > 100) return answer
    }
  }
  const checkImage = async (image: KnownImage) => {
    const path = `/v2/${image.repository}`
    const answer = await ask(`${path}/manifests/${image.digest}`)
    const found = answer.status === 200 ? 'here' : answer.status === 404 ? 'gone' : undefined
    if (found === undefined || !image.may.has(found))
      return finding(
        `${image.repository}@${image.digest} is ${[...image.may].join(' or ')}, and GET answers ${answer.status} ${answer.body}`,
      )
    image.may = new Set([found])
    if (found === 'gone') return
    counts.images++
    if (answer.body.toString() !== image.text || answer.headers['content-type'] !== image.type)
      finding(`${image.repository}@${image.digest} is not as it was pushed: ${answer.headers['content-type']} ${answer.body}`)
    for (const { digest, size } of image.blobs) {
      const blob = await ask(`${path}/blobs/${digest}`)
      counts.blobs++
      if (blob.status !== 200 || blob.body.length !== size || sha256(blob.body) !== digest)
        finding(`${path}/blobs/${digest} of ${image.digest}: ${blob.status}, ${blob.body.length} bytes of ${size}`)
    }
  }
  const checkTag = async (known: KnownTag) => {
    const answer = await ask(`/v2/${known.repository}/manifests/${known.tag}`)
    const found = answer.status === 200 ? `${answer.headers['docker-content-digest']}` : answer.status === 404 ? '' : undefined
    if (found === undefined || !known.may.has(found) || (found !== '' && sha256(answer.body) !== found))
      return finding(`${known.repository}:${known.tag} may be ${[...known.may]}, and GET answers ${answer.status} ${found}`)
    known.may = new Set([found])
    counts.tags++
  }
  const { touched } = history
  const images =
    which === 'everything' ? history.images() : history.images().filter((image) => touched.images.has(image) || sample(image))
  await each(images, checkImage)
  await each(which === 'everything' ? history.tags() : [...touched.tags], checkTag)
  touched.images.clear()
  touched.tags.clear()
  if (which === 'everything') await checkListings(ask, history, finding)
  return counts
}

/** The listing of each repository has the tags that stand and no others. */
async function checkListings(
  ask: (path: string) => Promise<{ status: number; body: Buffer }>,
  history: History,
  finding: Finding,
) {
  const expected = new Map<string, string[]>()
  for (const { repository, tag, may } of history.tags()) {
    const list = expected.get(repository) ?? []
    expected.set(repository, list)
    if (!may.has('')) list.push(tag)
  }
  for (const [repository, tags] of expected) {
    const answer = await ask(`/v2/${repository}/tags/list`)
    const listed = answer.status === 200 ? ((JSON.parse(answer.body.toString()) as { tags: string[] | null }).tags ?? []) : []
    if (JSON.stringify([...listed].sort()) !== JSON.stringify(tags.sort()))
      finding(`tags of ${repository} are ${listed}, and should be ${tags}`)
  }
}

async function each<T>(list: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  let next = 0
  const worker = async () => {
    while (next < list.length) await work(list[next++] as T)
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}
