import { create, type DescMessage, type MessageShape } from '@bufbuild/protobuf'
import type { Base } from '../context.ts'
import { readBody } from '../http/body.ts'
import type { Endpoint } from '../http/endpoint.ts'
import { adminErrorResponse } from '../http/error-response.ts'
import { ociError } from '../oci/errors.ts'
import { fromRest, fromTexts, toRest } from './json.ts'
import { enter, type Operation } from './operation.ts'

const bodyMost = 4 * 1024 * 1024

/** Paths of an operation's fields: `:repository+` may hold slashes, any other is one segment. */
const pathFields = (path: string) => [...path.matchAll(/:(\w+)\+?/g)].map((match) => match[1] as string)

const needs: Endpoint['needs'] = [
  'metadata',
  'passwords',
  'logins',
  'limits',
  'sha256',
  'about',
  'rules',
  'trusts',
  'collector',
  'retention',
]

/** The REST face of an operation: an endpoint whose input comes by path, query and body, and whose output is JSON. */
export function restEndpoint(operation: Operation): Endpoint {
  const { rest, action } = operation
  const fields = pathFields(rest.path)
  return {
    spec: [operation.method.name],
    methods: rest.method === 'GET' ? ['GET', 'HEAD'] : [rest.method],
    path: rest.path,
    action: typeof action === 'function' ? 'by request' : action,
    errors: [],
    needs: [...needs, ...(operation.signs ? (['tokens'] as const) : []), ...(operation.files ? (['blobs'] as const) : [])],
    async run(request, params, query, ctx, exchange) {
      let response: Response
      try {
        const input = await readInput(operation, fields, request, params, query)
        const stop = new AbortController()
        const call = await enter(operation, input, request, ctx, exchange, stop.signal)
        if (operation.stream) response = await streamed(operation, operation.stream(input, call, ctx), stop, ctx)
        else {
          const output = await operation.run?.(input, call, ctx)
          response = answer(operation, create(operation.method.output, output as never))
        }
      } catch (error) {
        response = adminErrorResponse(error, ctx, exchange)
      }
      ctx.count('requests_total', { endpoint: operation.method.name, method: request.method, status: String(response.status) })
      return response
    },
  }
}

async function readInput(
  operation: Operation,
  fields: readonly string[],
  request: Request,
  params: Record<string, string>,
  query: URLSearchParams,
): Promise<MessageShape<DescMessage>> {
  const { input } = operation.method
  const path: [string, string][] = fields.map((name) => [name, decodeURIComponent(params[name] ?? '')])
  const inPath = fromTexts(input, path)
  const inQuery = fromTexts(input, query)
  const { method } = operation.rest
  const inBody = method === 'GET' || method === 'DELETE' ? {} : await readJson(request)
  for (const name of fields)
    if (Object.hasOwn(inQuery, name) || Object.hasOwn(inBody, name))
      throw ociError('INVALID', undefined, { message: `${name} stands in the path already` })
  return fromRest(input, { ...inQuery, ...inBody, ...inPath })
}

async function readJson(request: Request): Promise<Record<string, unknown>> {
  const body = await readBody(request, bodyMost, 'SIZE_INVALID')
  if (body.byteLength === 0) return {}
  // A form of another site can send many types, but not this one without asking first.
  if (!/^application\/json *(;|$)/i.test(request.headers.get('content-type') ?? ''))
    throw ociError('INVALID', undefined, { status: 415, message: 'the body must be application/json' })
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    throw ociError('INVALID', undefined, { message: 'the body is no JSON' })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw ociError('INVALID', undefined, { message: 'the body is no JSON object' })
  return value as Record<string, unknown>
}

const headers = { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' }

function answer({ rest, method }: Operation, message: MessageShape<DescMessage>): Response {
  if (rest.status === 204) return new Response(null, { status: 204, headers: { 'Cache-Control': 'no-store' } })
  const bytes = new TextEncoder().encode(JSON.stringify(toRest(method.output, message)))
  return new Response(bytes, { status: rest.status ?? 200, headers: { ...headers, 'Content-Length': String(bytes.byteLength) } })
}

/** JSON Lines, one entry a line, as they come. */
async function streamed(
  operation: Operation,
  messages: AsyncIterable<unknown>,
  stop: AbortController,
  ctx: Base,
): Promise<Response> {
  const { output } = operation.method
  const encoder = new TextEncoder()
  const iterator = messages[Symbol.asyncIterator]()
  // What is wrong with the input shows before anything is read, and is a refusal with a status; a first entry may be long in coming.
  let first: Promise<IteratorResult<unknown>> | undefined = iterator.next()
  await Promise.race([first, new Promise((resolve) => setTimeout(resolve, 0))])
  // Whoever reads the body hears of it; until then nobody listens.
  first.catch(() => undefined)
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const next = first ?? iterator.next()
        first = undefined
        const { done, value } = await next
        if (done) controller.close()
        else {
          const fields = toRest(output, create(output, value as never))
          controller.enqueue(encoder.encode(`${JSON.stringify(Object.values(fields)[0])}\n`))
        }
      } catch (error) {
        if (stop.signal.aborted) return
        ctx.log({ level: 'error', event: 'stream_failed', operation: operation.method.name, error: String(error) })
        controller.error(error)
      }
    },
    async cancel() {
      stop.abort()
      await iterator.return?.()
    },
  })
  return new Response(body, { headers: { 'Content-Type': 'application/jsonl', 'Cache-Control': 'no-store' } })
}

/** Endpoints of the operations whose REST path begins with one of these. */
export function restEndpoints(operations: readonly Operation[]): Endpoint[] {
  return operations.map(restEndpoint)
}
