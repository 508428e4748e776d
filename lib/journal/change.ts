import type { Base, Exchange, Ports } from '../context.ts'
import type { Sql } from '../metadata/sql.ts'
import type { RegistryEvent } from './event.ts'

export interface Actor {
  principal: { subject: string }
  exchange?: Pick<Exchange, 'address'>
}

/** Adds an entry to the journal of the transaction it belongs to. Shape: the entry's random id. */
export type Append = (event: RegistryEvent) => string

interface Fields {
  type: string
  repository?: string
  digest?: string
  tag?: string
  detail?: object
}

/**
 * Runs a change and its journal entries as one transaction: neither is ever without the other.
 * Shape and errors: those of `work`; it may run more than once and touches nothing but `sql` and `append`.
 */
export async function change<T>(
  ctx: Pick<Base, 'now' | 'newId'> & Pick<Ports, 'metadata'>,
  actor: Actor,
  work: (sql: Sql, append: Append) => Promise<T>,
): Promise<T> {
  return await ctx.metadata.write(
    async (sql, append) =>
      await work(sql, (event) => {
        const id = ctx.newId()
        const { type, repository, digest, tag, detail }: Fields = event
        append({
          id,
          at: ctx.now(),
          type,
          actor: actor.principal.subject,
          address: actor.exchange?.address,
          repository,
          digest,
          tag,
          detail: detail === undefined ? undefined : JSON.stringify(detail),
        })
        return id
      }),
  )
}
