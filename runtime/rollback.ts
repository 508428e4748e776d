import type { BlobStore } from '../lib/blobs/blob-store.ts'
import type { Base } from '../lib/context.ts'
import { change } from '../lib/journal/change.ts'
import type { Database } from './database.ts'

/**
 * Refuses a database that is older than the blobs beside it: it names files that went since, and would call new ones nobody's. Every
 * removal of files is counted in the database first and noted beside the files second, so the note is never ahead of its own database.
 * With `accept` the database's count is brought up to the note, in an entry of the journal.
 * Errors: a plain Error that says what to do.
 */
export async function checkRollback(
  ctx: Pick<Base, 'now' | 'newId' | 'log'> & { metadata: Database },
  blobs: Pick<BlobStore, 'lastReaped'>,
  where: { database: string; layersPath: string },
  rollback: 'refuse' | 'accept',
): Promise<void> {
  // In this order: another process may remove files in between, and then counts before it notes.
  const noted = await blobs.lastReaped()
  const [row] = await ctx.metadata.read.all<{ seq: number }>(`SELECT reap_seq AS seq FROM instance`)
  const counted = row?.seq ?? 0
  if (noted <= counted) return
  if (rollback === 'refuse')
    throw new Error(
      `the database ${where.database} is older than the blobs in ${where.layersPath}: it counts ${counted} removals of files, and ${noted} happened there. ` +
        `Files that it names are gone. Put the newest database back; or restore a whole snapshot elsewhere (mcr restore); or go on with what is there ` +
        `(mcr serve --accept-rollback, then mcr verify, which names what is missing)`,
    )
  await change(ctx, { principal: { subject: 'system:rollback' } }, async (sql, append) => {
    await sql.run(`UPDATE instance SET reap_seq = ? WHERE reap_seq < ?`, [noted, noted])
    append({ type: 'rollback_accepted', detail: { counted, noted } })
  })
  ctx.log({ level: 'warn', event: 'rollback_accepted', counted, noted, hint: 'mcr verify names what is missing' })
}
