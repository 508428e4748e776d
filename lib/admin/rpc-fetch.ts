import { createConnectRouter, createContextValues } from '@connectrpc/connect'
import { universalServerRequestFromFetch, universalServerResponseToFetch } from '@connectrpc/connect/protocol'
import type { Endpoint } from '../http/endpoint.ts'
import { type Handler, handler } from '../http/mount.ts'
import type { Operation } from './operation.ts'
import { makeSceneKey, registerOperations } from './rpc.ts'

const messageMost = 4 * 1024 * 1024

/** Connect and gRPC-Web over fetch: one endpoint a method. gRPC needs trailers, which fetch has not; the runtime has its own way for it. */
export function rpcHandler(operations: readonly Operation[]): Handler {
  const scene = makeSceneKey()
  const router = createConnectRouter({ grpc: false, readMaxBytes: messageMost, writeMaxBytes: 64 * messageMost })
  registerOperations(router, operations, scene)
  const served = new Map(router.handlers.map((universal) => [universal.requestPath, universal]))
  const endpoints = operations.map(({ method, action }): Endpoint => {
    const path = `/${method.parent.typeName}/${method.name}`
    return {
      spec: [method.name],
      methods: ['POST'],
      path,
      action: typeof action === 'function' ? 'by request' : action,
      errors: [],
      needs: [
        'metadata',
        'passwords',
        'tokens',
        'logins',
        'limits',
        'sha256',
        'about',
        'rules',
        'trusts',
        'collector',
        'retention',
      ],
      async run(request, _params, _query, ctx, exchange) {
        exchange.endpoint = method.name
        const universal = served.get(path)
        const contextValues = createContextValues().set(scene, { ctx, exchange })
        const answer = await universal?.({ ...universalServerRequestFromFetch(request, { httpVersion: '1.1' }), contextValues })
        return universalServerResponseToFetch(answer as never)
      },
    }
  })
  return handler(...endpoints)
}
