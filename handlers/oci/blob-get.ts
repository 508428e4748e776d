import { reportDamage } from '../../lib/blobs/damage.ts'
import { type BlobAnswer, sendBlob } from '../../lib/blobs/send.ts'
import type { Base, Ports } from '../../lib/context.ts'
import { matchesIfNoneMatch } from '../../lib/http/conditional.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { apiVersion } from '../../lib/http/response.ts'
import { findLinkedBlob, type LinkedBlob, touchLink } from '../../lib/metadata/blobs.ts'
import { unlessFull } from '../../lib/metadata/errors.ts'
import { findManifest, readManifestBody } from '../../lib/metadata/manifests.ts'
import type { Digest } from '../../lib/oci/digest.ts'
import { ociError } from '../../lib/oci/errors.ts'
import type { RepositoryName } from '../../lib/oci/names.ts'

/** GET and HEAD /v2/<name>/blobs/<digest>: a blob that this repository holds, whole or in ranges. */
export default handler(
  endpoint({
    spec: 'end-2',
    method: 'GET',
    path: '/v2/:name+/blobs/:digest',
    action: 'registry:pull',
    errors: ['BLOB_UNKNOWN', 'DIGEST_INVALID', 'NAME_INVALID'],
    needs: ['metadata', 'blobs', 'limits'],
    writes: 'marks',
    async handle({ request, params: { name, digest }, error, decide }, ctx) {
      const found = await look(ctx, name, digest)
      if (!found) return (await manifestAsBlob(ctx, request, name, digest)) ?? refuse(error('BLOB_UNKNOWN', { name, digest }))
      const { blob, headers } = found
      if (request.method === 'HEAD') {
        if (blob.linkEpoch < blob.epoch && (await decide('registry:push', { repository: name })).allow)
          await keepWarm(ctx, blob, digest)
        return new Response(null, { headers })
      }
      const ifNoneMatch = request.headers.get('if-none-match')
      if (ifNoneMatch !== null && matchesIfNoneMatch(ifNoneMatch, headers.ETag as string)) {
        const { 'Content-Length': _length, 'Content-Type': _type, ...kept } = headers
        return new Response(null, { status: 304, headers: kept })
      }
      const response = await sendBlob(ctx, request, found, digest)
      if (response) return response
      // The file did not fit its row: gone and collected, replaced by a healing push, or damaged.
      const state = await reportDamage(ctx, digest, blob.inc)
      if (state === 'changed' || state === 'whole') {
        const again = await look(ctx, name, digest)
        const second = again && (await sendBlob(ctx, request, again, digest))
        if (second) return second
      }
      throw error('BLOB_UNKNOWN', { name, digest })
    },
  }),
)

type Needs = Base & Pick<Ports, 'metadata' | 'blobs' | 'limits'>

async function look(ctx: Needs, name: RepositoryName, digest: Digest): Promise<BlobAnswer | undefined> {
  return await ctx.remember(`blob ${name} ${digest}`, async () => {
    const blob = await findLinkedBlob(ctx.metadata.read, name, digest)
    return blob && { blob, headers: headersOf(digest, blob.size) }
  })
}

function headersOf(digest: Digest, size: number): Record<string, string> {
  return {
    ...apiVersion,
    'Content-Type': 'application/octet-stream',
    'Content-Length': String(size),
    'Docker-Content-Digest': digest,
    'Accept-Ranges': 'bytes',
    ETag: `"${digest}"`,
    'Cache-Control': 'private, max-age=31536000, immutable',
    'Content-Disposition': 'attachment',
    'Content-Security-Policy': "sandbox; default-src 'none'",
  }
}

/** T4: an old link is made warm for a caller that may push, also one that a manifest holds: that manifest may go before the push ends. */
async function keepWarm(ctx: Needs, blob: LinkedBlob, digest: Digest): Promise<void> {
  if ((await unlessFull(ctx.metadata.write((sql) => touchLink(sql, blob.repositoryId, digest)))) === false)
    throw ociError('BLOB_UNKNOWN', { digest })
}

/** containerd asks for a manifest's digest under blobs/ first: it is served from there as plain bytes. */
async function manifestAsBlob(ctx: Needs, request: Request, name: RepositoryName, digest: Digest): Promise<Response | undefined> {
  const manifest = await findManifest(ctx.metadata.read, name, { kind: 'digest', digest })
  if (!manifest) return undefined
  const headers = headersOf(digest, manifest.size)
  if (request.method === 'HEAD') return new Response(null, { headers })
  const { 'Accept-Ranges': _ranges, ...whole } = headers
  const body = await readManifestBody(ctx.metadata.read, digest)
  return body && new Response(body, { headers: whole })
}

function refuse(error: Error): never {
  throw error
}
