import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { nextLink } from '../../lib/http/page.ts'
import { json } from '../../lib/http/response.ts'
import { listReferrers, type Referrer } from '../../lib/metadata/manifests.ts'
import { findRepository } from '../../lib/metadata/repositories.ts'
import { ociIndex } from '../../lib/oci/media-types.ts'

/** Several clients read only the first page, and at most 4 MiB of it: so it is as large as that allows. */
const pageBytes = 4 * 1024 * 1024 - 64 * 1024
const pageEntries = 10_000

/**
 * GET /v2/<name>/referrers/<digest>: an index of the manifests that name this digest as their subject. Never 404: a client would take
 * that for "not supported" and write fallback tags.
 */
export default handler(
  endpoint({
    spec: ['end-12a', 'end-12b'],
    method: 'GET',
    path: '/v2/:name+/referrers/:digest',
    action: 'registry:pull',
    errors: ['DIGEST_INVALID', 'NAME_INVALID', 'UNSUPPORTED'],
    needs: ['metadata'],
    writes: 'marks',
    async handle({ params: { name, digest }, query, error }, ctx) {
      const types = artifactTypes(query)
      const before = beforeId(query.get('before'), error)
      const repositoryId = await findRepository(ctx.metadata.read, name)
      const rows =
        repositoryId === undefined
          ? []
          : await listReferrers(ctx.metadata.read, repositoryId, digest, types, pageEntries + 1, before)
      const page: string[] = []
      let bytes = 0
      let last: Referrer | undefined
      for (const row of rows) {
        const text = descriptorOf(row)
        if (page.length > 0 && (page.length === pageEntries || bytes + text.length * 3 > pageBytes)) break
        bytes += new TextEncoder().encode(text).byteLength + 1
        page.push(text)
        last = row
      }
      const more = page.length < rows.length ? last : undefined
      return json(`{"schemaVersion":2,"mediaType":"${ociIndex}","manifests":[${page.join(',')}]}`, {
        'Content-Type': ociIndex,
        'Cache-Control': 'private, no-cache',
        ...(types.length > 0 ? { 'OCI-Filters-Applied': 'artifactType' } : {}),
        ...(more
          ? {
              Link: nextLink(`/v2/${name}/referrers/${digest}`, {
                artifactType: query.get('artifactType') || undefined,
                before: more.id,
              }),
            }
          : {}),
      })
    },
  }),
)

/** Wanted types; a `+` that form decoding turned into a space is put back, since types hold `+` and clients forget to encode it. */
function artifactTypes(query: URLSearchParams): string[] {
  const types = query.getAll('artifactType').filter((type) => type !== '')
  return [...new Set(types.flatMap((type) => [type, type.replaceAll(' ', '+')]))].slice(0, 64)
}

function beforeId(
  text: string | null,
  error: (code: 'UNSUPPORTED', detail?: unknown, options?: { status?: number }) => Error,
): number {
  if (text === null) return Number.MAX_SAFE_INTEGER
  if (!/^[0-9]{1,15}$/.test(text)) throw error('UNSUPPORTED', { before: text.slice(0, 64) }, { status: 400 })
  return Number(text)
}

function descriptorOf(row: Referrer): string {
  return JSON.stringify({
    mediaType: row.mediaType,
    digest: row.digest,
    size: row.size,
    ...(row.artifactType ? { artifactType: row.artifactType } : {}),
    ...(row.annotations ? { annotations: JSON.parse(row.annotations) } : {}),
  })
}
