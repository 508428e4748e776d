import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'

/** GET /readyz: what this process serves from answers: the database and, where it has one, the blob store. Send no requests while this is 503. */
export default handler(
  endpoint({
    spec: 'health',
    method: 'GET',
    path: '/readyz',
    action: 'public',
    errors: ['UNAVAILABLE'],
    needs: ['ready'],
    async handle({ error }, ctx) {
      const problem = await ctx.ready()
      if (problem !== undefined) throw error('UNAVAILABLE', problem)
      return new Response('ready\n', {
        headers: { 'Content-Type': 'text/plain', 'Content-Length': '6', 'Cache-Control': 'no-store' },
      })
    },
  }),
)
