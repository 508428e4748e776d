import type { Step } from './checker.ts'

/** What a client asked of one tag, and what it was answered. A digest names what the tag points at; null: nothing. */
export type Call =
  /** PUT; `ifMatch` a digest the tag must be at, null: it must not exist. `status` 201, 412, 403 */
  | { kind: 'put'; digest: string; ifMatch?: string | null; immutable: boolean; status: number }
  /** DELETE; 202, 404, 412 */
  | { kind: 'delete'; ifMatch?: string; status: number }
  /** GET or HEAD */
  | { kind: 'read'; digest: string | null }
  /** the list of tags, as it says whether this one exists */
  | { kind: 'list'; exists: boolean }

/**
 * A tag as a register: the digest it points at, or null. An answer that is not known (`isKnown` false) allows whatever a call of its kind
 * can do, and it did something: doing nothing is being left out.
 */
export const step: Step<Call, string | null> = (state, call, isKnown) => {
  switch (call.kind) {
    case 'read':
      return !isKnown || state === call.digest ? { state } : undefined
    case 'list':
      return !isKnown || (state !== null) === call.exists ? { state } : undefined
    case 'put': {
      const may = call.ifMatch === undefined || state === call.ifMatch
      const moves = state !== null && state !== call.digest
      const answer = !may ? 412 : call.immutable && moves ? 403 : 201
      if (isKnown && call.status !== answer) return undefined
      return answer === 201 ? { state: call.digest } : isKnown ? { state } : undefined
    }
    case 'delete': {
      const answer = call.ifMatch !== undefined && state !== call.ifMatch ? 412 : state === null ? 404 : 202
      if (isKnown && call.status !== answer) return undefined
      return answer === 202 ? { state: null } : isKnown ? { state } : undefined
    }
  }
}
