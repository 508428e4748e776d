import type { Action } from '../policy/actions.ts'
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

/** Whether a credential that is limited may be used for this; it never allows what the account may not. */
export type Narrowing = (action: Action, repository?: string) => boolean

/**
 * A principal as one request brought it. `access` is what its registry token asked for; absent for what no token narrows.
 * `narrowing` is of the credential itself: a personal token's, also of the registry tokens made from it.
 */
export interface Caller {
  readonly principal: Principal
  readonly access?: readonly Access[]
  readonly narrowing?: Narrowing
  /** what proved it; absent for anonymous */
  readonly credential?: { readonly id: number; readonly kind: string; readonly expiresAt: number | null }
}

export const anonymous: Principal = { id: 0, subject: 'anonymous', name: 'anonymous', kind: 'anonymous', roles: [], version: 0 }
