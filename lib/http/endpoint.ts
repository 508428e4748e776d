import type { Plane } from '../auth/authenticate.ts'
import type { Caller, Principal } from '../auth/principal.ts'
import type { Base, Exchange, Ports, RegistryContext, Resource } from '../context.ts'
import type { Sql } from '../metadata/sql.ts'
import { type Digest, parseDigest } from '../oci/digest.ts'
import { type OciError, type OciErrorCode, ociError } from '../oci/errors.ts'
import {
  parseReference,
  parseRepositoryName,
  parseUploadId,
  type Reference,
  type RepositoryName,
  type UploadId,
} from '../oci/names.ts'
import type { Action } from '../policy/actions.ts'
import type { Decision } from '../policy/evaluate.ts'
import { authorize, type Demand, requireInside, scopeOf, unauthorized } from './authorize.ts'
import { errorResponse } from './error-response.ts'

export type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

/** Path parameters by name, each with its parser: a handler never sees one that is not what its name says. */
const parsers = {
  name: (text: string): RepositoryName => parseRepositoryName(text),
  reference: (text: string): Reference => parseReference(text),
  digest: (text: string): Digest => parseDigest(text),
  uploadId: (text: string): UploadId => parseUploadId(text),
}
type ParamTypes = { [K in keyof typeof parsers]: ReturnType<(typeof parsers)[K]> }
type ParamName<P extends string> = P extends `${string}:${infer Name}/${infer Rest}`
  ? Clean<Name> | ParamName<`/${Rest}`>
  : P extends `${string}:${infer Name}`
    ? Clean<Name>
    : never
type Clean<N extends string> = N extends `${infer Bare}+` ? Bare : N
export type Params<P extends string> = { readonly [K in ParamName<P> & keyof ParamTypes]: ParamTypes[K] }

export type { Demand } from './authorize.ts'

/** The one thing `handle` receives about its request. */
export interface Call<P extends string, E extends OciErrorCode> {
  readonly request: Request
  readonly params: Params<P>
  readonly query: URLSearchParams
  readonly caller: Caller
  readonly principal: Principal
  readonly exchange: Exchange
  /** A refusal with one of the codes the endpoint declares. */
  error(code: E, detail?: unknown, options?: Parameters<typeof ociError>[2]): OciError
  /** What the policy says of the caller, for what only the handler knows. */
  decide(action: Action, resource?: Resource, sql?: Sql): Promise<Decision>
  /** Demands it inside the transaction that changes something (P5). Errors: DENIED with the rule's message, or with `otherwise`. */
  require(action: Action, resource: Resource, sql: Sql, otherwise: string): Promise<void>
  /** The refusal that makes a client fetch a token with `scope` as well (P1: the policy allows, the token did not ask). */
  insufficient(scope: string): OciError
}

export interface Declaration<P extends string, E extends OciErrorCode, N extends keyof Ports> {
  /** Where the rule comes from: `end-7`, or the standard's name. */
  spec: string | readonly string[]
  method: Method | readonly Method[]
  path: P
  /** `public` is open to everybody and sees no principal. */
  action: 'public' | Action | readonly Action[] | ((params: Params<P>, query: URLSearchParams) => readonly Demand[])
  /** Which credentials open it; `/v2` unless said. */
  plane?: Plane
  errors: readonly E[]
  needs: readonly N[]
  /**
   * `marks`: of the database it writes only what reading leaves behind (epochs of rows that were wanted, damage that was seen), so a process
   * that mounts nothing else gets a connection that can write nothing else (W1). Absent: anything.
   */
  writes?: 'marks'
  handle(call: Call<P, E>, ctx: Base & Pick<Ports, N>): Promise<Response> | Response
}

export interface Endpoint {
  readonly spec: readonly string[]
  readonly methods: readonly Method[]
  readonly path: string
  /** For tables: the action's name, or `by request` where the request decides. */
  readonly action: string
  readonly errors: readonly OciErrorCode[]
  readonly needs: readonly (keyof Ports)[]
  readonly writes?: 'marks'
  run(
    request: Request,
    params: Record<string, string>,
    query: URLSearchParams,
    ctx: RegistryContext,
    exchange: Exchange,
  ): Promise<Response>
}

const list = <T>(value: T | readonly T[]): readonly T[] => (Array.isArray(value) ? value : [value as T])

/**
 * Declares an endpoint. `path` types the params, `errors` what `error()` takes, `needs` what `ctx` has, `action` feeds the decision.
 * This is the whole pipeline, in its order: parse, authenticate, decide, handle, turn failures into responses, count.
 */
export function endpoint<const P extends string, const E extends OciErrorCode, const N extends keyof Ports>(
  declared: Declaration<P, E, N>,
): Endpoint {
  const label = `${list(declared.method)[0]} ${declared.path}`
  const methods = list(declared.method)
  const withHead = methods.includes('GET') && !methods.includes('HEAD') ? [...methods, 'HEAD' as const] : methods
  return {
    spec: list(declared.spec),
    methods: withHead,
    path: declared.path,
    action: typeof declared.action === 'function' ? 'by request' : list(declared.action).join(' or '),
    errors: declared.errors,
    needs: declared.needs,
    writes: declared.writes,
    async run(request, raw, query, ctx, exchange) {
      exchange.endpoint = label
      let response: Response
      try {
        const params = parseParams(raw) as Params<P>
        if (raw.name !== undefined) exchange.repository = raw.name
        const demands = demandsOf(declared.action, params, query)
        const [first] = demands
        if (first) exchange.scope = scopeOf(first.anyOf[0] as Action, first.repository)
        const caller =
          declared.action === 'public' ? nobody : await ctx.authenticate(request, exchange, declared.plane ?? 'registry')
        if (declared.action !== 'public') exchange.principal = caller.principal.subject
        for (const demand of demands) await authorize(demand, caller, ctx, exchange)
        exchange.proceed()
        response = await declared.handle(
          {
            request,
            params,
            query,
            caller,
            principal: caller.principal,
            exchange,
            error: ociError,
            decide: (action, resource, sql) => ctx.decide(caller, exchange, action, resource, sql),
            require: (action, resource, sql, otherwise) => requireInside(ctx, caller, exchange, action, resource, sql, otherwise),
            insufficient: (scope) =>
              unauthorized(ctx, exchange, scope, 'insufficient_scope', 'the token does not hold the scope'),
          },
          ctx as Base & Pick<Ports, N>,
        )
      } catch (error) {
        response = errorResponse(error, ctx, exchange)
      }
      ctx.count('requests_total', { endpoint: label, method: request.method, status: String(response.status) })
      return response
    },
  }
}

const nobody: Caller = { principal: { id: 0, subject: 'anonymous', name: 'anonymous', kind: 'anonymous', roles: [], version: 0 } }

function parseParams(raw: Record<string, string>): Record<string, unknown> {
  const params: Record<string, unknown> = {}
  for (const name in raw) {
    const parse = parsers[name as keyof typeof parsers]
    const text = raw[name] as string
    params[name] = parse ? parse(text.includes('%') ? decodeURIComponent(text) : text) : text
  }
  return params
}

function demandsOf<P extends string>(
  action: Declaration<P, OciErrorCode, keyof Ports>['action'],
  params: Params<P>,
  query: URLSearchParams,
): readonly Demand[] {
  if (action === 'public') return []
  if (typeof action === 'function') return action(params, query)
  return [{ anyOf: list(action as Action | readonly Action[]), repository: (params as { name?: string }).name }]
}
