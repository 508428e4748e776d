import type { Base, Ports } from '../context.ts'
import { findStoredBlob, markSuspect } from '../metadata/blobs.ts'
import type { Digest } from '../oci/digest.ts'

/**
 * A file that a row names is missing or short (S15). Looks again: gone or replaced meanwhile is no damage; the same incarnation is marked,
 * once, with an alarm — but only while the store's root can be read, or an unmounted volume would mark everything.
 * Shape: whether another look at the row is worth it.
 */
export async function reportDamage(ctx: Base & Pick<Ports, 'metadata' | 'blobs'>, digest: Digest, inc: string): Promise<boolean> {
  const now = await findStoredBlob(ctx.metadata.read, digest)
  if (!now || now.inc !== inc) return true
  if (!(await ctx.blobs.healthy())) {
    ctx.log({ level: 'error', event: 'blob_store_unreadable', digest })
    return false
  }
  if (await ctx.metadata.write((sql) => markSuspect(sql, digest, inc))) {
    ctx.count('blobs_suspect_total')
    ctx.log({ level: 'error', event: 'blob_damaged', digest, incarnation: inc, hint: 'push the digest again to heal it' })
  }
  return false
}
