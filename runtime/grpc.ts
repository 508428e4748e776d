import { createContextValues } from '@connectrpc/connect'
import { connectNodeAdapter } from '@connectrpc/connect-node'
import { operations } from '../lib/admin/operations.ts'
import { makeSceneKey, registerOperations } from '../lib/admin/rpc.ts'
import type { Exchange, RegistryContext } from '../lib/context.ts'
import type { Req, Res } from './server.ts'

const messageMost = 4 * 1024 * 1024

/** gRPC proper: its trailers are beyond fetch, so the runtime speaks it, with the very operations that the other faces have. */
export function createGrpc(ctx: RegistryContext): (req: Req, res: Res, exchange: Exchange) => void {
  const scene = makeSceneKey()
  const exchanges = new WeakMap<object, Exchange>()
  const serve = connectNodeAdapter({
    connect: false,
    grpcWeb: false,
    readMaxBytes: messageMost,
    writeMaxBytes: 64 * messageMost,
    routes: (router) => registerOperations(router, operations, scene),
    contextValues: (req) => createContextValues().set(scene, { ctx, exchange: exchanges.get(req) as Exchange }),
  })
  return (req, res, exchange) => {
    exchanges.set(req, exchange)
    exchange.proceed()
    void serve(req as never, res as never)
  }
}
