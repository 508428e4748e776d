import { matchesIfNoneMatch } from '../../lib/http/conditional.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { apiVersion } from '../../lib/http/response.ts'
import { unlessFull } from '../../lib/metadata/errors.ts'
import { findManifest, readManifestBody, type StoredManifest, touchManifest } from '../../lib/metadata/manifests.ts'

/** Bodies up to this many bytes are remembered with their row; larger ones are read each time. */
const rememberedBytes = 32 * 1024

interface Answer {
  manifest: StoredManifest
  headers: Record<string, string>
  body: Uint8Array<ArrayBuffer> | undefined
}

/**
 * GET and HEAD /v2/<name>/manifests/<reference>: the exact bytes that were pushed, under the type they were pushed with. `Accept` is
 * ignored: what a tag points at is never converted, and a false 404 breaks clients that send little.
 */
export default handler(
  endpoint({
    spec: 'end-3',
    method: 'GET',
    path: '/v2/:name+/manifests/:reference',
    action: 'registry:pull',
    errors: ['MANIFEST_UNKNOWN', 'NAME_INVALID', 'DIGEST_INVALID'],
    needs: ['metadata'],
    writes: 'marks',
    async handle({ request, params: { name, reference }, principal, exchange, error, decide }, ctx) {
      const sql = ctx.metadata.read
      const text = reference.kind === 'tag' ? reference.tag : reference.digest
      const look = () =>
        ctx.remember<Answer | undefined>(`manifest ${name} ${text}`, async () => {
          const manifest = await findManifest(sql, name, reference)
          if (!manifest) return undefined
          const body = manifest.size <= rememberedBytes ? await readManifestBody(sql, manifest.digest) : undefined
          return { manifest, body, headers: headersOf(manifest, reference.kind === 'digest') }
        })
      const whole = async (found: Answer | undefined) => {
        const body = found && (found.body ?? (await readManifestBody(sql, found.manifest.digest)))
        return body && { ...found, body }
      }
      const seen = await look()
      if (!seen) throw error('MANIFEST_UNKNOWN', { name, reference: text })
      const { manifest, headers } = seen
      if (request.method === 'HEAD') {
        // T4: whoever may push and asks whether it is there may build on the answer, so an old row is made warm again.
        if (manifest.ownEpoch < manifest.epoch && (await decide('registry:push', { repository: name })).allow)
          await unlessFull(ctx.metadata.write((write) => touchManifest(write, manifest.id)))
        return new Response(null, { headers })
      }
      const condition = request.headers.get('if-none-match')
      if (condition !== null && matchesIfNoneMatch(condition, headers.ETag as string)) return notModified(headers)
      // Between row and body a tag may have moved, and what it named been collected: it names something all the same.
      const answer = (await whole(seen)) ?? (await whole(await look()))
      if (!answer) throw error('MANIFEST_UNKNOWN', { name, reference: text })
      ctx.note({
        type: 'manifest_pulled',
        actor: principal.subject,
        address: exchange.address,
        repository: name,
        digest: answer.manifest.digest,
        tag: reference.kind === 'tag' ? reference.tag : undefined,
      })
      return new Response(answer.body, { headers: answer.headers })
    },
  }),
)

function headersOf(manifest: StoredManifest, immutable: boolean): Record<string, string> {
  return {
    ...apiVersion,
    'Content-Type': manifest.mediaType,
    'Content-Length': String(manifest.size),
    'Docker-Content-Digest': manifest.digest,
    ETag: `"${manifest.digest}"`,
    'Cache-Control': immutable ? 'private, max-age=31536000, immutable' : 'private, no-cache',
    // Manifest bytes are anybody's: a browser shown one must not run it on this origin.
    'Content-Security-Policy': "sandbox; default-src 'none'",
  }
}

function notModified(headers: Record<string, string>): Response {
  const { 'Content-Length': _length, 'Content-Type': _type, ...kept } = headers
  return new Response(null, { status: 304, headers: kept })
}
