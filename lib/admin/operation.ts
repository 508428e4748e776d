import type { DescMessage, DescMethod, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import type { Credentialed } from '../auth/authenticate.ts'
import { anonymous, type Caller, type Principal } from '../auth/principal.ts'
import type { Base, Exchange, Ports, Resource } from '../context.ts'
import { authorize, type Demand, requireInside, unauthorized } from '../http/authorize.ts'
import type { Sql } from '../metadata/sql.ts'
import { ociError } from '../oci/errors.ts'
import type { Action } from '../policy/actions.ts'
import type { Decision } from '../policy/evaluate.ts'

/** What an operation is given of the machine. */
export type AdminContext = Base &
  Pick<
    Ports,
    | 'metadata'
    | 'passwords'
    | 'tokens'
    | 'logins'
    | 'limits'
    | 'sha256'
    | 'about'
    | 'rules'
    | 'trusts'
    | 'collector'
    | 'retention'
    | 'files'
    | 'outgoing'
  >

/** What an operation knows of who calls it. */
export interface OperationCall {
  readonly caller: Caller
  readonly principal: Principal
  readonly exchange: Exchange
  /** What a session or token of the caller is, for the operations that end it. */
  readonly signal?: AbortSignal
  decide(action: Action, resource?: Resource, sql?: Sql): Promise<Decision>
  /** Demands it inside the transaction that changes something. Errors: DENIED. */
  require(action: Action, resource: Resource, sql: Sql, otherwise: string): Promise<void>
}

/** `public` is for everybody, `authenticated` for everybody who is somebody; else the policy is asked, before anything is looked up. */
export type OperationAction<I extends DescMessage> =
  | 'public'
  | 'authenticated'
  | Action
  | ((input: MessageShape<I>) => readonly Demand[])

export interface Declared<I extends DescMessage> {
  /** One line for help, documents and lists. */
  summary: string
  action: OperationAction<I>
  /** `rest.path` has the input's fields as parameters; the rest comes by query (GET, DELETE) or body. */
  rest: { method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'; path: string; status?: 200 | 201 | 202 | 204 }
  /** The words of `mcr`, and which fields are given by their place. `columns` are what a table shows of a list;
   * `hidden` is what another command asks in its own way;
   * `newest` is a list of which a person wants the first page. */
  cli: { words: string; args?: readonly string[]; columns?: readonly string[]; hidden?: true; newest?: true }
  /** It signs or seals with the key of `auth.key_file`: mounted only where that key is. */
  signs?: true
  /** It reads or writes the files of blobs: by REST mounted only where they are. */
  files?: true
}

/** One thing the administration can do, whichever face it is asked through. */
export interface Operation<I extends DescMessage = DescMessage, O extends DescMessage = DescMessage> extends Declared<I> {
  readonly method: DescMethod & { input: I; output: O }
  readonly run?: (input: MessageShape<I>, call: OperationCall, ctx: AdminContext) => Promise<MessageInitShape<O>>
  readonly stream?: (input: MessageShape<I>, call: OperationCall, ctx: AdminContext) => AsyncIterable<MessageInitShape<O>>
}

/** Declares a unary operation of a method of the protos. One without an action does not compile. */
export function operation<I extends DescMessage, O extends DescMessage>(
  method: DescMethod & { methodKind: 'unary'; input: I; output: O },
  declared: Declared<I> & Required<Pick<Operation<I, O>, 'run'>>,
): Operation {
  return { ...declared, method } as unknown as Operation
}

/** Declares an operation that answers with a stream. */
export function streaming<I extends DescMessage, O extends DescMessage>(
  method: DescMethod & { methodKind: 'server_streaming'; input: I; output: O },
  declared: Declared<I> & Required<Pick<Operation<I, O>, 'stream'>>,
): Operation {
  return { ...declared, method } as unknown as Operation
}

/**
 * Who calls an operation, allowed to. The one way in, for REST, RPC and the command line over the network: no face can go beside it.
 * Errors: UNAUTHORIZED, DENIED, TOOMANYREQUESTS.
 */
export async function enter(
  operation: Operation,
  input: MessageShape<DescMessage>,
  request: Credentialed,
  ctx: Base,
  exchange: Exchange,
  signal?: AbortSignal,
): Promise<OperationCall> {
  exchange.endpoint = operation.method.name
  const { action } = operation
  if (holdsNul(input)) throw ociError('INVALID', undefined, { message: 'a text with a NUL is none' })
  const caller: Caller = action === 'public' ? { principal: anonymous } : await ctx.authenticate(request, exchange, 'admin')
  if (action !== 'public') exchange.principal = caller.principal.subject
  if (action === 'authenticated' && caller.principal.kind === 'anonymous')
    throw unauthorized(ctx, exchange, undefined, undefined, 'authentication required')
  const demands =
    typeof action === 'function' ? action(input) : action === 'public' || action === 'authenticated' ? [] : [{ anyOf: [action] }]
  for (const demand of demands) {
    if (demand.repository !== undefined) exchange.repository = demand.repository
    await authorize(demand, caller, ctx, exchange)
  }
  exchange.proceed()
  return callOf(caller, ctx, exchange, signal)
}

/** The database ends a text at its first NUL: none gets that far. */
function holdsNul(value: unknown): boolean {
  if (typeof value === 'string') return value.includes('\0')
  return typeof value === 'object' && value !== null && Object.values(value).some(holdsNul)
}

/** A call by somebody who has been let in. */
export function callOf(caller: Caller, ctx: Base, exchange: Exchange, signal?: AbortSignal): OperationCall {
  return {
    caller,
    principal: caller.principal,
    exchange,
    signal,
    decide: (wanted, resource, sql) => ctx.decide(caller, exchange, wanted, resource, sql),
    require: (wanted, resource, sql, otherwise) => requireInside(ctx, caller, exchange, wanted, resource, sql, otherwise),
  }
}
