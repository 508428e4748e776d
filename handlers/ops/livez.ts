import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'

/** GET /livez: the process answers. Restart it when this does not. */
export default handler(
  endpoint({
    spec: 'health',
    method: 'GET',
    path: '/livez',
    action: 'public',
    errors: [],
    needs: [],
    handle: () =>
      new Response('ok\n', { headers: { 'Content-Type': 'text/plain', 'Content-Length': '3', 'Cache-Control': 'no-store' } }),
  }),
)
