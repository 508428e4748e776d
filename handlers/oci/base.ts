import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { json } from '../../lib/http/response.ts'

/** GET /v2/: the ping that tells a client this is a registry, and with its 401 how to log in. Anonymous is always 401: several clients read the challenge only here. */
export default handler(
  endpoint({
    spec: 'end-1',
    method: 'GET',
    path: '/v2/',
    action: 'registry:version_check',
    errors: [],
    needs: [],
    handle: () => json('{}', { 'Cache-Control': 'no-store' }),
  }),
)
