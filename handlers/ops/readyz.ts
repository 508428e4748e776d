import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'

/** GET /readyz: the database answers and the blob store can be read. Send no requests while this is 503. */
export default handler(
  endpoint({
    spec: 'health',
    method: 'GET',
    path: '/readyz',
    action: 'public',
    errors: ['UNAVAILABLE'],
    needs: ['metadata', 'blobs'],
    async handle({ error }, ctx) {
      await ctx.metadata.read.all('SELECT epoch FROM instance')
      if (ctx.blobs && !(await ctx.blobs.healthy())) throw error('UNAVAILABLE', 'the blob store cannot be read')
      return new Response('ready\n', {
        headers: { 'Content-Type': 'text/plain', 'Content-Length': '6', 'Cache-Control': 'no-store' },
      })
    },
  }),
)
