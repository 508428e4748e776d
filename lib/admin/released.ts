import type { Release } from '../metadata/released.ts'
import { stampOrNone } from './input.ts'

/** What a delete frees, as the protos have it. */
export const releaseMessage = ({ freedNow, released, freeAfter }: Release) => ({
  freedNow: BigInt(freedNow),
  released: BigInt(released),
  freeAfter: stampOrNone(freeAfter),
})
