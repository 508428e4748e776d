import { IttyRouter } from 'itty-router'
import type { Exchange, RegistryContext } from '../context.ts'
import { ociError } from '../oci/errors.ts'
import type { Endpoint, Method } from './endpoint.ts'
import { adminErrorResponse, errorResponse } from './error-response.ts'

/** A unit of deployment: what one file of handlers/ exports. */
export interface Handler {
  readonly endpoints: readonly Endpoint[]
  fetch(request: Request, ctx: RegistryContext, exchange: Exchange): Promise<Response>
}

/** One line of the table of every route of the product, also those that other processes serve. */
export interface Route {
  methods: readonly Method[]
  path: string
}

/** Makes a handler of endpoints; alone it serves just them. */
export function handler(...endpoints: Endpoint[]): Handler {
  return { endpoints, fetch: mount([{ endpoints }], endpoints) }
}

/**
 * One fetch function over many handlers. `routes` is the table of *all* routes: a known path with another method is 405 with `Allow`, a
 * route of another process 421, anything else 404.
 */
export function mount(handlers: readonly Pick<Handler, 'endpoints'>[], routes: readonly Route[]): Handler['fetch'] {
  // The bare router and nothing after it: a `finally` formatter would reflect request headers into responses.
  const router = IttyRouter()
  for (const { endpoints } of handlers) {
    for (const endpoint of endpoints) {
      const serve = (request: Routed, ctx: RegistryContext, exchange: Exchange, query: URLSearchParams) => {
        if (isUploadsCollection(endpoint.path, request.params)) return undefined
        return endpoint.run(request as unknown as Request, request.params, query, ctx, exchange)
      }
      for (const method of endpoint.methods) router[method.toLowerCase() as 'get'](endpoint.path, serve as never)
    }
  }
  const known = routes.map((route) => ({ ...route, pattern: patternOf(route.path) }))

  return async (request, ctx, exchange) => {
    const at = request.url.indexOf('?')
    const query = new URLSearchParams(at < 0 ? '' : request.url.slice(at))
    try {
      const response = await router.fetch(request as never, ctx, exchange, query)
      return response ?? unrouted(request, known, ctx, exchange)
    } catch (error) {
      return errorResponse(error, ctx, exchange)
    }
  }
}

interface Routed {
  params: Record<string, string>
}

/** `…/blobs/uploads` is the collection of uploads and never a blob of that name. */
function isUploadsCollection(path: string, params: Record<string, string>): boolean {
  return params.digest === 'uploads' && path.endsWith('/blobs/:digest')
}

function patternOf(path: string): RegExp {
  const source = path
    .replace(/\/$/, '')
    .replace(/[.]/g, '\\.')
    // A name ends at `/-/`: what comes after it is another path.
    .replace(/:\w+\+/g, '(?:(?!/-/).)+')
    .replace(/:\w+/g, '[^/]+')
  return new RegExp(`^${source}/?$`)
}

/** The answer to what no mounted endpoint took. Source: RFC 9110 §15.5.5, §15.5.6, §15.5.20. */
function unrouted(
  request: Request,
  known: readonly (Route & { pattern: RegExp })[],
  ctx: RegistryContext,
  exchange: Exchange,
): Response {
  const path = pathOf(request.url)
  const uploads = /\/blobs\/uploads\/?$/.test(path)
  const matching = known.filter((route) => route.pattern.test(path) && !(uploads && route.path.endsWith('/blobs/:digest')))
  const answer = path.startsWith('/v1/') ? adminErrorResponse : errorResponse
  if (matching.length === 0) return answer(ociError('UNSUPPORTED', 'no such route', { status: 404 }), ctx, exchange)
  if (matching.some((route) => route.methods.includes(request.method as Method))) {
    const error = ociError('UNSUPPORTED', 'another process of this registry serves this route', { status: 421 })
    return answer(error, ctx, exchange)
  }
  const allow = [...new Set(matching.flatMap((route) => route.methods))].join(', ')
  return answer(ociError('UNSUPPORTED', { allow }, { status: 405, headers: { Allow: allow } }), ctx, exchange)
}

function pathOf(url: string): string {
  const start = url.indexOf('/', url.indexOf('://') + 3)
  const end = url.indexOf('?', start)
  return end < 0 ? url.slice(start) : url.slice(start, end)
}
