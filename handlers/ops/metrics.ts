import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'

/** GET /metrics: this process's numbers in Prometheus' text format, for who holds `system:read`. */
export default handler(
  endpoint({
    spec: 'metrics',
    method: 'GET',
    path: '/metrics',
    action: 'system:read',
    plane: 'admin',
    errors: [],
    needs: ['renderMetrics'],
    async handle(_call, ctx) {
      const bytes = new TextEncoder().encode(await ctx.renderMetrics())
      const headers = {
        'Content-Type': 'text/plain; version=0.0.4; charset=utf-8',
        'Content-Length': String(bytes.byteLength),
        'Cache-Control': 'no-store',
      }
      return new Response(bytes, { headers })
    },
  }),
)
