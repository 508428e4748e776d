import type { Access } from './scope.ts'

export type PrincipalKind = 'human' | 'system' | 'anonymous'

/** Who acts. `id` is the account's row; `version` moves with every change of password, roles or state. */
export interface Principal {
  readonly id: number
  readonly subject: string
  readonly name: string
  readonly kind: PrincipalKind
  readonly roles: readonly string[]
  readonly version: number
}

/** A principal as one request brought it. `access` is what its token asked for; absent for Basic and anonymous, which nothing narrows. */
export interface Caller {
  readonly principal: Principal
  readonly access?: readonly Access[]
}

export const anonymous: Principal = { id: 0, subject: 'anonymous', name: 'anonymous', kind: 'anonymous', roles: [], version: 0 }
