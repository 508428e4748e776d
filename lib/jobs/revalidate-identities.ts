import type { McSource } from '../auth/identities.ts'
import type { Job } from './job.ts'

/** T6: asks the identity service every half minute about the tokens in use; a revoked one is refused with the next request everywhere. */
export function revalidateIdentities(mcias: McSource | undefined): Job {
  return {
    name: 'revalidate-identities',
    everyMs: 30_000,
    async run() {
      const { revoked } = (await mcias?.revalidate()) ?? { revoked: 0 }
      return { revoked }
    },
  }
}
