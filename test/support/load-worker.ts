// The load of load.ts: raw HTTP without a second try. Started by it with an IPC channel; ends when told, with everything under way finished.
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Agent as HttpAgent, request as httpRequest, type IncomingHttpHeaders } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import type { LoadOptions } from './load.ts'

const { address, password, name = 'load', ca: caFile } = JSON.parse(process.env.MCR_LOAD as string) as LoadOptions
const [host, port] = address.split(':') as [string, string]
const authorization = `Basic ${btoa(`admin:${password}`)}`
const ca = caFile === undefined ? undefined : readFileSync(caFile)
const request = ca ? httpsRequest : httpRequest
const Agent = ca ? HttpsAgent : HttpAgent
type Agent = HttpAgent | HttpsAgent
const failures: string[] = []
let answered = 0
let stopping = false
const report = () => process.send?.({ answered, failures })

interface Answer {
  status: number
  headers: IncomingHttpHeaders
  body: Buffer
}

function ask(agent: Agent, method: string, path: string, body: Uint8Array = new Uint8Array(), type?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers: Record<string, string | number> = { authorization }
    if (method !== 'GET' && method !== 'HEAD') headers['content-length'] = body.length
    if (type) headers['content-type'] = type
    const req = request({ agent, ca, host, port, method, path, headers } as object, (res) => {
      const parts: Buffer[] = []
      res.on('data', (part: Buffer) => parts.push(part))
      res.once('error', reject)
      res.once('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, body: Buffer.concat(parts) }))
    })
    req.once('error', reject)
    req.end(body)
  })
}

const digestOf = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** One request and the status it must have; `[index]` of the lane stands in the failure. */
async function must(
  agent: Agent,
  status: number,
  method: string,
  path: string,
  body?: Uint8Array,
  type?: string,
): Promise<Answer> {
  const what = `${new Date().toISOString()} ${method} ${path}`
  const answer = await ask(agent, method, path, body, type).catch((error: Error) => {
    throw new Error(`${what}: ${error.message}`)
  })
  if (answer.status !== status)
    throw new Error(`${what}: ${answer.status}, not ${status}: ${answer.body.toString().slice(0, 300)}`)
  answered++
  return answer
}

async function upload(agent: Agent, repository: string, content: Uint8Array): Promise<string> {
  const digest = digestOf(content)
  let location = (await must(agent, 202, 'POST', `/v2/${repository}/blobs/uploads/`)).headers.location as string
  const half = content.length >> 1
  for (const part of [content.subarray(0, half), content.subarray(half)])
    location = (await must(agent, 202, 'PATCH', location, part, 'application/octet-stream')).headers.location as string
  await must(agent, 201, 'PUT', `${location}${location.includes('?') ? '&' : '?'}digest=${digest}`)
  return digest
}

const manifestType = 'application/vnd.oci.image.manifest.v1+json'

/** One push of an image, pulled back whole and compared. */
async function pushAndPull(agent: Agent, repository: string): Promise<void> {
  const config = new TextEncoder().encode('{}')
  const layer = randomBytes(64 * 1024)
  const descriptors = []
  for (const content of [config, layer])
    descriptors.push({
      mediaType: 'application/octet-stream',
      size: content.length,
      digest: await upload(agent, repository, content),
    })
  const manifest = new TextEncoder().encode(
    JSON.stringify({ schemaVersion: 2, mediaType: manifestType, config: descriptors[0], layers: [descriptors[1]] }),
  )
  await must(agent, 201, 'PUT', `/v2/${repository}/manifests/latest`, manifest, manifestType)
  const pulled = await must(agent, 200, 'GET', `/v2/${repository}/manifests/latest`)
  if (!pulled.body.equals(manifest)) throw new Error(`${repository}: another manifest came back`)
  const blob = await must(agent, 200, 'GET', `/v2/${repository}/blobs/${digestOf(layer)}`)
  if (!blob.body.equals(layer)) throw new Error(`${repository}: another layer came back`)
}

async function lane(work: () => Promise<void>): Promise<void> {
  while (!stopping) {
    try {
      await work()
    } catch (error) {
      failures.push((error as Error).message)
      if (failures.length > 20) stopping = true
    }
    report()
  }
}

process.on('message', () => {
  stopping = true
})
process.once('disconnect', () => process.exit(1))
const kept = () => new Agent({ keepAlive: true, maxSockets: 1 })
const lanes = [0, 1].map((index) => {
  const agent = kept()
  return lane(() => pushAndPull(agent, `${name}/kept-${index}`))
})
lanes.push(lane(() => pushAndPull(new Agent(), `${name}/new`)))
const pinging = kept()
lanes.push(
  lane(async () => {
    await must(pinging, 200, 'GET', '/v2/')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }),
)
await Promise.all(lanes)
report()
process.disconnect?.()
