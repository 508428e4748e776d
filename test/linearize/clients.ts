import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { password } from '../support/process.ts'
import type { Operation } from './checker.ts'
import type { Cluster } from './cluster.ts'
import type { Call } from './register.ts'

export type TagOperation = Operation<Call> & { register: string; client: number; member: number }
export interface Load {
  clients: number
  members: number
  operations: number
  repositories: number
  tags: number
  random: () => number
}
export interface History {
  operations: TagOperation[]
  /** digests that were answered 201, by repository */
  acknowledged: { repository: string; digest: string }[]
  /** answers that no rule allows, and operations without an answer */
  strange: string[]
  unknown: number
  refused: number
}

const type = 'application/vnd.oci.image.manifest.v1+json'
const empty = { mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf('{}'), size: 2 }
const headers = { authorization: `Basic ${btoa(`admin:${password}`)}` }
const patienceMs = 30_000

function digestOf(text: string): string {
  return `sha256:${createHash('sha256').update(text).digest('hex')}`
}

/** Tags of this name are immutable: a rule of the policy says so. */
const isImmutable = (tag: string) => tag.startsWith('fixed')
const tagAt = (load: Load, index: number) => (index < Math.ceil(load.tags / 5) ? `fixed-${index}` : `tag-${index}`)
const repositoryAt = (index: number) => `linear/r${index}`

/** The rule for immutable tags, and the blob that every manifest names. */
export async function prepare(cluster: Cluster, load: Load): Promise<void> {
  const rule = {
    effect: 'deny',
    actions: ['registry:overwrite'],
    repositories: ['linear/*'],
    tags: ['fixed-*'],
    description: 'fixed',
  }
  const json = { ...headers, 'content-type': 'application/json' }
  await mustBe(201, `${cluster.url(0)}/v1/policy/rules`, { method: 'POST', headers: json, body: JSON.stringify(rule) })
  for (let index = 0; index < load.repositories; index++) {
    const path = `/v2/${repositoryAt(index)}/blobs/uploads/?digest=${empty.digest}`
    await mustBe(201, `${cluster.url(0)}${path}`, { method: 'POST', headers, body: '{}' })
  }
}

async function mustBe(status: number, url: string, init: RequestInit): Promise<void> {
  const response = await fetch(url, init)
  if (response.status !== status) throw new Error(`${url}: ${response.status} ${await response.text()}`)
}

/** Runs clients until so many operations have been made, and then reads every tag once more. `disturb` runs beside them. */
export async function run(cluster: Cluster, load: Load, disturb: (signal: AbortSignal) => Promise<void>): Promise<History> {
  const history: History = { operations: [], acknowledged: [], strange: [], unknown: 0, refused: 0 }
  const stop = new AbortController()
  const disturbing = disturb(stop.signal)
  let made = 0
  const seen = new Map<string, string | null>()
  const pick = (count: number) => Math.floor(load.random() * count)
  await Promise.all(
    Array.from({ length: load.clients }, async (_, client) => {
      while (made++ < load.operations) await operate(client, pick(load.members), pick(load.repositories), pick(load.tags))
    }),
  )
  stop.abort()
  await disturbing
  for (let repository = 0; repository < load.repositories; repository++)
    for (let tag = 0; tag < load.tags; tag++) await read(0, pick(load.members), repositoryAt(repository), tagAt(load, tag), 'GET')
  return history

  async function operate(client: number, member: number, repositoryIndex: number, tagIndex: number): Promise<void> {
    const [repository, tag] = [repositoryAt(repositoryIndex), tagAt(load, tagIndex)]
    const before = seen.get(`${repository}:${tag}`)
    const dice = load.random()
    if (dice < 0.25) return await put(client, member, repository, tag, undefined)
    if (dice < 0.35) return await put(client, member, repository, tag, before ?? null)
    if (dice < 0.4) return await put(client, member, repository, tag, null)
    if (dice < 0.5) return await remove(client, member, repository, tag, undefined)
    if (dice < 0.55) return await remove(client, member, repository, tag, before ?? undefined)
    if (dice < 0.6) return await list(client, member, repository)
    return await read(client, member, repository, tag, dice < 0.8 ? 'GET' : 'HEAD')
  }

  /** Shape: the answer; `refused` when nobody listened, so that nothing can have happened; undefined when nobody knows. */
  async function ask(
    member: number,
    method: string,
    path: string,
    init: RequestInit = {},
  ): Promise<Response | 'refused' | undefined> {
    try {
      const response = await fetch(`${cluster.url(member)}${path}`, {
        ...init,
        method,
        headers: { ...headers, ...init.headers },
        signal: AbortSignal.timeout(patienceMs),
      })
      // A body that is cut is no answer.
      const body = await response.arrayBuffer()
      return new Response(response.status === 204 || method === 'HEAD' ? null : body, response)
    } catch (error) {
      const { code } = ((error as Error).cause ?? {}) as { code?: string }
      if (code !== 'ECONNREFUSED') return undefined
      await sleep(50)
      return 'refused'
    }
  }

  function note(client: number, member: number, register: string, call: Call, invoked: number, isKnown: boolean): void {
    if (!isKnown) history.unknown++
    history.operations.push({
      call,
      invoked,
      completed: isKnown ? performance.now() : Number.POSITIVE_INFINITY,
      register,
      client,
      member,
    })
  }

  /** Nothing happened: another operation takes its place. */
  function refused(): void {
    history.refused++
    made--
  }

  /** A status that the calls of a register have; 503 and 429 may or may not have done something. */
  function known(answer: Response | undefined, what: string, ...allowed: number[]): boolean {
    if (answer === undefined || answer.status === 503 || answer.status === 429) return false
    if (!allowed.includes(answer.status)) history.strange.push(`${what}: ${answer.status}`)
    return allowed.includes(answer.status)
  }

  async function put(client: number, member: number, repository: string, tag: string, ifMatch: string | null | undefined) {
    const annotations = { 'org.example.number': `${client}-${history.operations.length}-${load.random()}` }
    const body = JSON.stringify({ schemaVersion: 2, mediaType: type, config: empty, layers: [], annotations })
    const digest = digestOf(body)
    const condition: Record<string, string> =
      ifMatch === undefined ? {} : ifMatch === null ? { 'if-none-match': '*' } : { 'if-match': `"${ifMatch}"` }
    const invoked = performance.now()
    const init = { body, headers: { 'content-type': type, ...condition } }
    const answer = await ask(member, 'PUT', `/v2/${repository}/manifests/${tag}`, init)
    if (answer === 'refused') return refused()
    const isKnown = known(answer, `PUT ${repository}:${tag}`, 201, 412, 403)
    const call: Call = { kind: 'put', digest, ifMatch, immutable: isImmutable(tag), status: answer?.status ?? 0 }
    note(client, member, `${repository}:${tag}`, call, invoked, isKnown)
    if (isKnown && answer?.status === 201) {
      history.acknowledged.push({ repository, digest })
      seen.set(`${repository}:${tag}`, digest)
    }
  }

  async function remove(client: number, member: number, repository: string, tag: string, ifMatch: string | undefined) {
    const invoked = performance.now()
    const init = { headers: ifMatch === undefined ? {} : { 'if-match': `"${ifMatch}"` } }
    const answer = await ask(member, 'DELETE', `/v2/${repository}/manifests/${tag}`, init as RequestInit)
    if (answer === 'refused') return refused()
    const isKnown = known(answer, `DELETE ${repository}:${tag}`, 202, 404, 412)
    note(client, member, `${repository}:${tag}`, { kind: 'delete', ifMatch, status: answer?.status ?? 0 }, invoked, isKnown)
    if (isKnown && answer?.status === 202) seen.set(`${repository}:${tag}`, null)
  }

  async function read(client: number, member: number, repository: string, tag: string, method: 'GET' | 'HEAD') {
    const invoked = performance.now()
    const answer = await ask(member, method, `/v2/${repository}/manifests/${tag}`)
    if (answer === 'refused') return refused()
    if (!known(answer, `${method} ${repository}:${tag}`, 200, 404) || !answer) return
    const digest = answer.status === 200 ? answer.headers.get('docker-content-digest') : null
    if (method === 'GET' && digest !== null && digestOf(await answer.text()) !== digest)
      history.strange.push(`${repository}:${tag}: a body that is not ${digest}`)
    note(client, member, `${repository}:${tag}`, { kind: 'read', digest }, invoked, true)
    seen.set(`${repository}:${tag}`, digest)
  }

  /** A list is one look at every tag of its repository. */
  async function list(client: number, member: number, repository: string) {
    const invoked = performance.now()
    const answer = await ask(member, 'GET', `/v2/${repository}/tags/list?n=1000`)
    if (answer === 'refused') return refused()
    if (!known(answer, `list ${repository}`, 200) || !answer) return
    const { tags } = (await answer.json()) as { tags: string[] }
    if (tags.join() !== [...new Set(tags)].sort().join()) history.strange.push(`${repository}: a list out of order: ${tags}`)
    for (let tag = 0; tag < load.tags; tag++) {
      const exists = tags.includes(tagAt(load, tag))
      note(client, member, `${repository}:${tagAt(load, tag)}`, { kind: 'list', exists }, invoked, true)
    }
  }
}

/** Every manifest that was answered 201 is there by its digest: only tags are deleted here. Shape: those that are not. */
export async function missing(cluster: Cluster, { acknowledged }: History): Promise<string[]> {
  const lost: string[] = []
  for (const { repository, digest } of acknowledged) {
    const answer = await fetch(`${cluster.url(0)}/v2/${repository}/manifests/${digest}`, { headers })
    if (answer.status !== 200 || digestOf(await answer.text()) !== digest) lost.push(`${repository}@${digest}: ${answer.status}`)
  }
  return lost
}
