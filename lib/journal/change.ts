import type { Base, Exchange, Ports } from '../context.ts'
import type { Sql } from '../metadata/sql.ts'
import type { RegistryEvent } from './event.ts'

interface JournalFields {
  type: string
  repository?: string
  digest?: string
  tag?: string
  detail?: object
}

export interface Actor {
  principal: { subject: string }
  exchange?: Pick<Exchange, 'address'>
}

/** Appends an entry inside the transaction it belongs to. Shape: the entry's random id. */
export type Append = (event: RegistryEvent) => Promise<string>

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
    async (sql) =>
      await work(sql, async (event) => {
        const id = ctx.newId()
        const { type, repository, digest, tag, detail }: JournalFields = event
        await sql.run(
          `INSERT INTO journal(id, at, type, actor, address, repository, digest, tag, detail) VALUES (?,?,?,?,?,?,?,?,?)`,
          [
            id,
            ctx.now(),
            type,
            actor.principal.subject,
            actor.exchange?.address ?? null,
            repository ?? null,
            digest ?? null,
            tag ?? null,
            detail === undefined ? null : JSON.stringify(detail),
          ],
        )
        return id
      }),
  )
}
