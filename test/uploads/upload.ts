import type { Answer, Client } from '../workload/client.ts'
import type { Finding } from '../workload/push-blob.ts'
import { bytesNamed, type Random, sha256 } from '../workload/random.ts'

export type Ending = 'created' | 'refused' | 'given up'

/** What a client that behaves like this may be told; 0 is no answer. Everything else is a finding. */
const allowed: Record<string, readonly number[]> = {
  POST: [0, 202, 503],
  GET: [0, 204, 404, 503],
  PATCH: [0, 202, 400, 404, 416, 503],
  PUT: [0, 201, 400, 404, 416, 503],
  DELETE: [0, 204, 404, 503],
}
const stepsMost = 14

/**
 * One upload of which everything goes wrong that can: bodies cut, sent twice, out of order, at two processes at once, given up by the client
 * while the registry still works on them; a digest that the bytes do not have. Whatever happens, 201 means that the blob is there and is
 * exactly the bytes of its digest.
 */
export async function upload(
  client: Client,
  random: Random,
  finding: Finding,
  repository: string,
  name: string,
): Promise<{ ending: Ending; digest?: string }> {
  const bytes = bytesNamed(name, random.between(0, 30_000))
  const lie = random.chance(0.1)
  const digest = sha256(lie ? `${name}, which nobody sends` : bytes)
  const tell = async (method: string, path: string, body?: Uint8Array, headers: Record<string, string> = {}): Promise<Answer> => {
    const cutAt = body && random.chance(0.15) ? random.between(0, body.length) : undefined
    // Most clients wait; some leave after a moment, and the registry goes on with what it has of them.
    const timeoutMs = random.chance(0.15) ? random.between(1, 400) : method === 'PUT' ? 5_000 : undefined
    const answer = await client(method, path, { body, headers, cutAt, timeoutMs })
    if (!allowed[method]?.includes(answer.status)) finding(`${name}: ${method} ${path}: ${answer.status} ${answer.body}`)
    if (answer.status === 201 && lie) finding(`${name}: 201 for bytes that do not have that digest`)
    return answer
  }
  const start = await tell('POST', `/v2/${repository}/blobs/uploads/`)
  if (start.status !== 202) return { ending: 'given up' }
  const location = `${start.headers.location}`
  const piece = (from: number, to: number) =>
    tell('PATCH', location, bytes.subarray(from, to), random.chance(0.8) ? { 'content-range': `${from}-${to - 1}` } : {})
  const put = (from: number) =>
    tell(
      'PUT',
      `${location}?digest=${digest}`,
      bytes.subarray(from),
      from > 0 && from < bytes.length ? { 'content-range': `${from}-${bytes.length - 1}` } : {},
    )
  const end = async (answers: readonly Answer[]): Promise<{ ending: Ending; digest?: string } | undefined> => {
    if (answers.some(({ status }) => status === 201)) {
      await checkCreated(client, finding, `/v2/${repository}/blobs/${digest}`, bytes)
      return { ending: 'created', digest }
    }
    return answers.some(({ status }) => status === 404) ? { ending: 'refused' } : undefined
  }

  let at = 0
  for (let step = 0; step < stepsMost; step++) {
    const way = random()
    const to = Math.min(bytes.length, at + random.between(1, 12_000))
    let answers: Answer[]
    if (way < 0.35 && to > at) answers = [await piece(at, to)]
    else if (way < 0.45 && at > 0) answers = [await piece(random.between(0, at - 1), at)]
    else if (way < 0.52 && to < bytes.length) answers = [await piece(to, bytes.length)]
    else if (way < 0.62 && to > at) answers = await Promise.all([piece(at, to), piece(at, Math.min(bytes.length, to + 1))])
    else if (way < 0.67) answers = await Promise.all([put(at), put(at)])
    else if (way < 0.71 && to > at) answers = await Promise.all([piece(at, to), put(at)])
    else if (way < 0.73) answers = [await tell('DELETE', location)]
    else answers = [await put(at)]
    const over = await end(answers)
    if (over) return over
    // The registry says where it is; whatever it says, only whole bodies of ours can be there.
    const status = await client('GET', location)
    if (!allowed.GET?.includes(status.status)) finding(`${name}: GET ${location}: ${status.status} ${status.body}`)
    if (status.status === 404)
      return (await finishedUnseen(client, repository, digest)) ? await created(digest) : { ending: 'refused' }
    if (status.status === 204) at = offsetOf(status)
  }
  return { ending: 'given up' }

  async function created(of: string): Promise<{ ending: Ending; digest: string }> {
    if (lie) finding(`${name}: bytes that nobody sent are there`)
    await checkCreated(client, finding, `/v2/${repository}/blobs/${of}`, bytes)
    return { ending: 'created', digest: of }
  }
}

/** A PUT whose answer was lost may have been the one that ended it. */
async function finishedUnseen(client: Client, repository: string, digest: string): Promise<boolean> {
  return (await client('HEAD', `/v2/${repository}/blobs/${digest}`)).status === 200
}

async function checkCreated(client: Client, finding: Finding, path: string, bytes: Buffer): Promise<void> {
  for (;;) {
    const blob = await client('GET', path)
    if (blob.status === 0 || blob.status === 503) continue
    if (blob.status !== 200 || !blob.body.equals(bytes))
      finding(`${path} was answered 201, and GET answers ${blob.status}, ${blob.body.length} bytes of ${bytes.length}`)
    return
  }
}

function offsetOf({ headers }: Answer): number {
  return Number(/^0-(-?[0-9]+)$/.exec(`${headers.range}`)?.[1] ?? -1) + 1
}
