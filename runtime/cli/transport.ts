import { readFileSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { create, type DescMessage, type MessageShape } from '@bufbuild/protobuf'
import { Code, ConnectError, createClient, type Transport as RpcTransport } from '@connectrpc/connect'
import { createGrpcTransport } from '@connectrpc/connect-node'
import { fromRest, toRest } from '../../lib/admin/json.ts'
import { callOf, type Operation } from '../../lib/admin/operation.ts'
import { isOciError } from '../../lib/oci/errors.ts'
import type { LocalRegistry } from '../local.ts'

/** A failure that a person or script reads: `status` is HTTP's. */
export interface CliFailure extends Error {
  status: number
}
const failure = (status: number, message: string): CliFailure => Object.assign(new Error(message), { status })

/** How the command line reaches the operations: here, by REST or by gRPC. Input and output are messages of the protos. */
export interface Transport {
  call(operation: Operation, input: MessageShape<DescMessage>): Promise<MessageShape<DescMessage>>
  stream(operation: Operation, input: MessageShape<DescMessage>): AsyncIterable<MessageShape<DescMessage>>
}

/** On the registry's own host: the same operations over its database, as the owner of its data (A4). */
export function localTransport(registry: LocalRegistry): Transport {
  const enter = () => callOf(registry.caller, registry.ctx, registry.exchange, registry.signal)
  const refused = (error: unknown) => (isOciError(error) ? failure(error.status, error.message) : (error as Error))
  return {
    async call(operation, input) {
      try {
        return create(operation.method.output, (await operation.run?.(input, enter(), registry.ctx)) as never)
      } catch (error) {
        throw refused(error)
      }
    },
    async *stream(operation, input) {
      try {
        for await (const message of operation.stream?.(input, enter(), registry.ctx) ?? [])
          yield create(operation.method.output, message as never)
      } catch (error) {
        throw refused(error)
      }
    },
  }
}

export interface Remote {
  /** `https://registry.example.com`, or for gRPC `host:port` of its port */
  address: string
  token?: string
  caCert?: string
}

/** Over HTTP to a registry elsewhere. */
export function restTransport(remote: Remote): Transport {
  return {
    async call(operation, input) {
      const response = await send(remote, operation, input)
      const text = await textOf(response)
      if (response.statusCode === 204) return create(operation.method.output)
      return fromRest(operation.method.output, JSON.parse(text))
    },
    async *stream(operation, input) {
      const response = await send(remote, operation, input)
      const [field] = operation.method.output.fields
      let rest = ''
      for await (const chunk of response) {
        const lines = `${rest}${chunk}`.split('\n')
        rest = lines.pop() as string
        for (const line of lines)
          if (line !== '') yield fromRest(operation.method.output, { [field?.name as string]: JSON.parse(line) })
      }
    },
  }
}

/** Over gRPC, on TLS or, where the address begins with http://, without. */
export function grpcTransport(remote: Remote): Transport {
  const transport: RpcTransport = createGrpcTransport({
    baseUrl: /^https?:\/\//.test(remote.address) ? remote.address : `https://${remote.address}`,
    nodeOptions: remote.caCert ? { ca: readFileSync(remote.caCert) } : {},
    interceptors: [
      (next) => (request) => {
        if (remote.token !== undefined) request.header.set('authorization', `Bearer ${remote.token}`)
        return next(request)
      },
    ],
  })
  const statusOf: Partial<Record<Code, number>> = {
    [Code.InvalidArgument]: 400,
    [Code.Unauthenticated]: 401,
    [Code.PermissionDenied]: 403,
    [Code.NotFound]: 404,
    [Code.FailedPrecondition]: 409,
    [Code.ResourceExhausted]: 429,
    [Code.Unavailable]: 503,
  }
  const refused = (error: unknown) => {
    const { code, rawMessage } = ConnectError.from(error)
    return failure(statusOf[code] ?? 500, rawMessage)
  }
  const method = ({ method: { parent, localName } }: Operation) =>
    (createClient(parent, transport) as unknown as Record<string, (input: unknown) => unknown>)[localName] as (
      input: unknown,
    ) => unknown
  return {
    async call(operation, input) {
      try {
        return (await method(operation)(input)) as MessageShape<DescMessage>
      } catch (error) {
        throw refused(error)
      }
    },
    async *stream(operation, input) {
      try {
        yield* method(operation)(input) as AsyncIterable<MessageShape<DescMessage>>
      } catch (error) {
        throw refused(error)
      }
    },
  }
}

/** Sends an operation's input by path, query and body. Errors: what the registry refuses, in its words. */
async function send(remote: Remote, { method, rest }: Operation, input: MessageShape<DescMessage>): Promise<IncomingMessage> {
  const fields = toRest(method.input, input)
  const path = rest.path.replace(/:(\w+)(\+?)/g, (_all, name: string, many: string) => {
    const text = String(fields[name])
    delete fields[name]
    return many ? text : encodeURIComponent(text)
  })
  const query = new URLSearchParams()
  const byQuery = rest.method === 'GET' || rest.method === 'DELETE'
  if (byQuery)
    for (const [name, value] of Object.entries(fields))
      for (const one of Array.isArray(value) ? value : [value])
        if (one !== '' && one !== 0 && one !== false) query.append(name, String(one))
  const url = new URL(`${path}${query.size > 0 ? `?${query}` : ''}`, remote.address)
  const body = byQuery ? undefined : JSON.stringify(fields)
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(
      url,
      {
        method: rest.method,
        ca: remote.caCert ? readFileSync(remote.caCert) : undefined,
        headers: {
          ...(remote.token === undefined ? {} : { authorization: `Bearer ${remote.token}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        },
      },
      resolve,
    )
    request.once('error', (error) => reject(failure(503, `${url.origin} cannot be reached: ${error.message}`)))
    request.end(body)
  })
  const status = response.statusCode ?? 500
  if (status < 300) return response
  const text = await textOf(response)
  let message = `${url.origin} answered ${status}`
  try {
    const { error } = JSON.parse(text) as { error?: unknown }
    if (typeof error === 'string') message = error
  } catch {
    message += `, and not as a registry does: is the address right?`
  }
  throw failure(status, message)
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}
