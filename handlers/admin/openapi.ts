import { openApi } from '../../lib/admin/openapi.ts'
import { operations } from '../../lib/admin/operations.ts'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import { json } from '../../lib/http/response.ts'

/** GET /v1/openapi.json: the document of this administration, for everybody: it says what the source says. */
export default handler(
  endpoint({
    spec: 'openapi',
    method: 'GET',
    path: '/v1/openapi.json',
    action: 'public',
    errors: [],
    needs: ['about'],
    handle: (_call, ctx) => json(openApi(operations, ctx.about.version), { 'Cache-Control': 'public, max-age=300' }),
  }),
)
