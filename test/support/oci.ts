import { createHash } from 'node:crypto'
import type { TestRegistry } from './registry.ts'

export const ociManifest = 'application/vnd.oci.image.manifest.v1+json'
export const ociIndex = 'application/vnd.oci.image.index.v1+json'
export const dockerManifest = 'application/vnd.docker.distribution.manifest.v2+json'

export const sha256 = (bytes: Uint8Array | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`
export const sha512 = (bytes: Uint8Array | string) => `sha512:${createHash('sha512').update(bytes).digest('hex')}`

/** The empty JSON object, as config or layer of artifacts. */
export const emptyJson = { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 }

/** Pushes one blob in a single POST. Shape: its digest. */
export async function pushBlob(
  registry: TestRegistry,
  name: string,
  content: Uint8Array | string,
  digest = sha256(content),
): Promise<string> {
  const response = await registry.fetch('POST', `/v2/${name}/blobs/uploads/?digest=${digest}`, { body: content })
  if (response.status !== 201) throw new Error(`POST blob: ${response.status} ${await response.text()}`)
  return digest
}

/** An image manifest of one config and some layers, all pushed. */
export async function pushImage(
  registry: TestRegistry,
  name: string,
  reference: string,
  options: { layers?: string[]; extra?: object; type?: string } = {},
): Promise<{ digest: string; text: string; response: Response }> {
  const layers = []
  for (const layer of options.layers ?? []) {
    await pushBlob(registry, name, layer)
    layers.push({ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: sha256(layer), size: layer.length })
  }
  await pushBlob(registry, name, '{}')
  const type = options.type ?? ociManifest
  const text = JSON.stringify({ schemaVersion: 2, mediaType: type, config: emptyJson, layers, ...options.extra })
  const response = await putManifest(registry, name, reference, text, type)
  return { digest: sha256(text), text, response }
}

export async function putManifest(
  registry: TestRegistry,
  name: string,
  reference: string,
  text: string,
  type: string | null = ociManifest,
  headers: Record<string, string> = {},
): Promise<Response> {
  return await registry.fetch('PUT', `/v2/${name}/manifests/${reference}`, {
    body: new TextEncoder().encode(text),
    headers: type === null ? headers : { 'content-type': type, ...headers },
  })
}

/** The code of an OCI error body, after checking its shape. */
export async function errorCode(response: Response): Promise<string> {
  if (response.headers.get('content-type') !== 'application/json')
    throw new Error(`error body is ${response.headers.get('content-type')}`)
  const body = (await response.json()) as { errors: { code: string; message: string }[] }
  const first = body.errors[0]
  if (!first || typeof first.message !== 'string') throw new Error(`not an error body: ${JSON.stringify(body)}`)
  return first.code
}
