import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { nextLink, parsePage } from '../../lib/http/page.ts'
import { json } from '../../lib/http/response.ts'
import { listRepositories } from '../../lib/metadata/repositories.ts'
import type { RepositoryName } from '../../lib/oci/names.ts'

/** Names looked at for one page at most: a caller that may see few of many gets a short page with a link, not a long wait. */
const lookedAt = 10_000

/** GET /v2/_catalog: the repositories that the caller may pull from, in byte order. */
export default handler(
  endpoint({
    spec: 'catalog',
    method: 'GET',
    path: '/v2/_catalog',
    action: 'registry:catalog',
    errors: ['UNSUPPORTED'],
    needs: ['metadata', 'limits'],
    writes: 'marks',
    async handle({ query, decide }, ctx) {
      const { limit, after } = parsePage(query, ctx.limits.pageDefault, ctx.limits.pageMax)
      const repositories: RepositoryName[] = []
      let at = after
      let looked = 0
      let more = limit > 0
      while (more && repositories.length < limit && looked < lookedAt) {
        const batch = Math.min(limit - repositories.length + 1, 1000)
        const names = await listRepositories(ctx.metadata.read, batch, at)
        more = names.length === batch
        for (const name of names) {
          if (repositories.length === limit) break
          looked++
          at = name
          if ((await decide('registry:pull', { repository: name })).allow) repositories.push(name)
        }
      }
      return json({ repositories }, more ? { Link: nextLink('/v2/_catalog', { n: limit, last: at }) } : {})
    },
  }),
)
