import type { Base, Ports } from '../context.ts'
import { change } from '../journal/change.ts'
import { clearSuspect, findStoredBlob, markSuspect, repositoriesWith } from '../metadata/blobs.ts'
import type { Digest } from '../oci/digest.ts'
import type { FileState } from './blob-store.ts'

type Needs = Pick<Base, 'log' | 'count' | 'now' | 'newId'> & Pick<Ports, 'metadata' | 'blobs'>

export const healingHint = 'push the digest again, or mcr repair --from a registry that has it'

/**
 * A file did not fit its row. Looks again, with `pace` at its bytes too: what is gone or replaced meanwhile is no damage. The same
 * incarnation is marked, once, with an alarm in log, metrics and journal; from then on it counts as absent, and the next push of its
 * digest heals it. Marks only while the store's root can be read, or an unmounted volume would mark everything. Other bytes are kept aside.
 * Shape: what the second look found; `changed`: the row is another or gone.
 */
export async function reportDamage(
  ctx: Needs,
  digest: Digest,
  inc: string,
  pace?: (bytes: number) => Promise<void>,
): Promise<FileState | 'changed'> {
  const row = await findStoredBlob(ctx.metadata.read, digest)
  if (row?.inc !== inc) return 'changed'
  const found = await ctx.blobs.inspect(digest, inc, row.size, pace)
  // Looked at after the file: a row that is still there then was there while the file was missed.
  const now = await findStoredBlob(ctx.metadata.read, digest)
  if (now?.inc !== inc) return 'changed'
  if (found === 'whole') return found
  if (!(await ctx.blobs.healthy())) {
    ctx.log({ level: 'error', event: 'blob_store_unreadable', digest, hint: 'is its volume mounted? nothing was marked' })
    return found
  }
  const repositories = await repositoriesWith(ctx.metadata.read, digest, '' as never)
  const marked = await change(ctx, { principal: { subject: 'system:storage' } }, async (sql, append) => {
    if (!(await markSuspect(sql, digest, inc))) return false
    append({ type: 'blob_damaged', digest, detail: { incarnation: inc, size: row.size, found, repositories } })
    return true
  })
  if (!marked) return found
  if (found === 'size' || found === 'bytes')
    await ctx.blobs.setAside(digest, inc).catch((error) => {
      // A process that only reads may not: the damage is marked all the same.
      ctx.log({ level: 'warn', event: 'blob_not_set_aside', digest, incarnation: inc, error: String(error) })
    })
  ctx.count('blobs_suspect_total')
  ctx.log({ level: 'error', event: 'blob_damaged', digest, incarnation: inc, found, repositories, hint: healingHint })
  return found
}

/** A marked file was read whole (its bytes were put back by hand): the mark goes. Shape: whether it was there. */
export async function reportHealed(ctx: Needs, digest: Digest, inc: string): Promise<boolean> {
  const cleared = await change(ctx, { principal: { subject: 'system:storage' } }, async (sql, append) => {
    if (!(await clearSuspect(sql, digest, inc))) return false
    append({ type: 'blob_healed', digest, detail: { incarnation: inc } })
    return true
  })
  if (cleared) ctx.log({ level: 'info', event: 'blob_healed', digest, incarnation: inc })
  return cleared
}
