import { create, type DescMessage, type MessageShape } from '@bufbuild/protobuf'
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ContextKey,
  createContextKey,
  type HandlerContext,
} from '@connectrpc/connect'
import type { Base, Exchange, RegistryContext } from '../context.ts'
import { refusalOf } from '../http/error-response.ts'
import { enter, type Operation } from './operation.ts'

const codes: Readonly<Record<number, Code>> = {
  400: Code.InvalidArgument,
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
  404: Code.NotFound,
  409: Code.FailedPrecondition,
  410: Code.NotFound,
  412: Code.FailedPrecondition,
  413: Code.InvalidArgument,
  429: Code.ResourceExhausted,
  503: Code.Unavailable,
  507: Code.ResourceExhausted,
}

/** What the adapter in front hands over with each call: the registry, and the request as the machine saw it. */
export interface RpcScene {
  ctx: RegistryContext
  exchange: Exchange
}

export const makeSceneKey = (): ContextKey<RpcScene> => createContextKey<RpcScene>(undefined as never)

/**
 * The RPC face: every method of the protos is the operation of its name, entered as everywhere. Cookies do not count here.
 * `scene` is the key under which the adapter in front put what it knows of the request.
 */
export function registerOperations(router: ConnectRouter, operations: readonly Operation[], scene: ContextKey<RpcScene>): void {
  for (const operation of operations) {
    const { method, run, stream } = operation
    const enterFrom = async (input: MessageShape<DescMessage>, context: HandlerContext) => {
      const { ctx, exchange } = context.values.get(scene)
      return await enter(operation, input, { headers: context.requestHeader }, ctx, exchange, context.signal)
    }
    if (stream)
      router.rpc(
        method as never,
        async function* (input: MessageShape<DescMessage>, context: HandlerContext) {
          const { ctx, exchange } = context.values.get(scene)
          try {
            for await (const message of stream(input, await enterFrom(input, context), ctx))
              yield create(method.output, message as never)
            counted(ctx, operation, 'ok')
          } catch (error) {
            throw connectError(error, ctx, exchange, operation)
          }
        } as never,
      )
    else if (run)
      router.rpc(
        method as never,
        (async (input: MessageShape<DescMessage>, context: HandlerContext) => {
          const { ctx, exchange } = context.values.get(scene)
          try {
            const output = create(method.output, (await run(input, await enterFrom(input, context), ctx)) as never)
            counted(ctx, operation, 'ok')
            return output
          } catch (error) {
            throw connectError(error, ctx, exchange, operation)
          }
        }) as never,
      )
  }
}

function connectError(error: unknown, ctx: Base, exchange: Exchange, operation: Operation): ConnectError {
  const refusal = refusalOf(error, ctx, exchange)
  const code = codes[refusal.status] ?? Code.Internal
  counted(ctx, operation, Code[code].toLowerCase())
  return new ConnectError(refusal.message, code)
}

function counted(ctx: Base, operation: Operation, status: string): void {
  ctx.count('requests_total', { endpoint: operation.method.name, method: 'RPC', status })
}
