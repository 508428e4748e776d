import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { nextLink, parsePage } from '../../lib/http/page.ts'
import { json } from '../../lib/http/response.ts'
import { findRepository } from '../../lib/metadata/repositories.ts'
import { listTags } from '../../lib/metadata/tags.ts'

/** GET /v2/<name>/tags/list: tags in byte order, by pages that cost the same wherever they start. */
export default handler(
  endpoint({
    spec: ['end-8a', 'end-8b'],
    method: 'GET',
    path: '/v2/:name+/tags/list',
    action: 'registry:pull',
    errors: ['NAME_UNKNOWN', 'NAME_INVALID', 'UNSUPPORTED'],
    needs: ['metadata', 'limits'],
    writes: 'marks',
    async handle({ params: { name }, query, error }, ctx) {
      const { limit, after } = parsePage(query, ctx.limits.pageMax, ctx.limits.pageMax)
      const repositoryId = await findRepository(ctx.metadata.read, name)
      if (repositoryId === undefined) throw error('NAME_UNKNOWN', { name })
      if (limit === 0) return json({ name, tags: [] })
      const { tags, next } = await listTags(ctx.metadata.read, repositoryId, limit, after)
      return json({ name, tags }, next === undefined ? {} : { Link: nextLink(`/v2/${name}/tags/list`, { n: limit, last: next }) })
    },
  }),
)
