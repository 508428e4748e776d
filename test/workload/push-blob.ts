import type { Answer, Client } from './client.ts'
import type { Random } from './random.ts'

export interface Blob {
  digest: string
  bytes: Buffer
}

/** Says that the registry did what it must not. The run goes on; what was said makes it fail. */
export type Finding = (what: string) => void

const attempts = 40

/** 503 and no answer at all are what a registry may say while its processes are killed: ask again. */
export const unanswered = (answer: Answer) => answer.status === 0 || answer.status === 503

/**
 * Brings a blob into a repository as clients do: looked for, mounted, in one request, in one piece, in several, cut and resumed, each
 * request at whichever process comes next. Shape: whether the registry said that it is there.
 */
export async function pushBlob(
  client: Client,
  random: Random,
  finding: Finding,
  repository: string,
  blob: Blob,
  others: readonly string[],
): Promise<boolean> {
  const base = `/v2/${repository}/blobs`
  for (let attempt = 0; attempt < attempts; attempt++) {
    const head = await client('HEAD', `${base}/${blob.digest}`)
    if (head.status === 200 && random.chance(0.9)) return true
    if (head.status !== 200 && head.status !== 404 && !unanswered(head)) finding(`HEAD ${base}/${blob.digest}: ${head.status}`)
    const way = random()
    let answer: Answer
    if (way < 0.35) answer = await client('POST', `${base}/uploads/?digest=${blob.digest}`, { body: blob.bytes })
    else if (way < 0.5 && others.length > 0) {
      answer = await client('POST', `${base}/uploads/?mount=${blob.digest}&from=${random.pick(others)}`)
      if (answer.status === 202) answer = await inPieces(client, random, `${answer.headers.location}`, blob)
    } else {
      const start = await client('POST', `${base}/uploads/`)
      answer = start.status === 202 ? await inPieces(client, random, `${start.headers.location}`, blob) : start
    }
    if (answer.status === 201) return true
    // The upload may be unknown where a request before this one finished it, or fell with its process.
    if (!unanswered(answer) && answer.status !== 404 && answer.status !== 416)
      finding(`uploading ${blob.digest} to ${repository}: ${answer.status} ${answer.body}`)
  }
  return false
}

/** PATCH by PATCH, now and then cut and resumed at another process where the registry says the upload is; then PUT. */
async function inPieces(client: Client, random: Random, location: string, { digest, bytes }: Blob): Promise<Answer> {
  let at = 0
  let answer: Answer | undefined
  for (let pieces = random.between(0, 3); pieces > 0 && at < bytes.length; pieces--) {
    const end = pieces === 1 && random.chance(0.7) ? bytes.length : random.between(at + 1, bytes.length)
    const cutAt = random.chance(0.15) ? random.between(0, end - at - 1) : undefined
    answer = await client('PATCH', location, {
      body: bytes.subarray(at, end),
      headers: { 'content-range': `${at}-${end - 1}` },
      cutAt,
      avoid: answer?.by,
    })
    if (answer.status === 202) {
      at = end
      continue
    }
    if (answer.status !== 0) return answer
    const status = await client('GET', location, { avoid: answer.by })
    if (status.status !== 204) return status
    at = Number(/-([0-9]+)$/.exec(`${status.headers.range}`)?.[1] ?? -1) + 1
    if (status.headers.range === '0--1') at = 0
  }
  return await client('PUT', `${location}?digest=${digest}`, {
    body: bytes.subarray(at),
    ...(at > 0 && at < bytes.length ? { headers: { 'content-range': `${at}-${bytes.length - 1}` } } : {}),
  })
}
