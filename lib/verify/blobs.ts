import { reportDamage, reportHealed } from '../blobs/damage.ts'
import type { Base, Ports } from '../context.ts'
import { findStoredBlob } from '../metadata/blobs.ts'
import { type BlobRow, blobsAfter, repositoriesOf } from '../metadata/integrity.ts'
import { type Finding, kindOfState } from './finding.ts'

export type VerifyNeeds = Pick<Base, 'log' | 'count' | 'now' | 'newId'> & Pick<Ports, 'metadata' | 'blobs' | 'limits'>

/** Files looked at by size at once. */
const together = 16

export interface BlobLooked {
  blobs: number
  /** of their rows */
  bytes: number
  findings: Finding[]
}

/**
 * Looks at every blob's file: its size, and with `pace` its bytes. What does not fit is marked at once, so that it is answered as absent and
 * can be healed. Yields what each look found; a look at one large file may take long, and `pace` is told of its pieces.
 */
export async function* verifyBlobs(
  ctx: VerifyNeeds,
  pace: ((bytes: number) => Promise<void>) | undefined,
): AsyncGenerator<BlobLooked> {
  for (let after = ''; ; ) {
    const rows = await blobsAfter(ctx.metadata.read, after)
    const last = rows.at(-1)
    if (!last) return
    const step = pace ? 1 : together
    for (let at = 0; at < rows.length; at += step) {
      const part = rows.slice(at, at + step)
      const found = await Promise.all(part.map((row) => verifyBlob(ctx, row, pace)))
      yield {
        blobs: part.length,
        bytes: part.reduce((sum, row) => sum + row.size, 0),
        findings: found.filter((finding) => finding !== undefined),
      }
    }
    after = last.digest
  }
}

/** The store as a whole is out of reach, and none of its files is missed because of that. */
export const storeUnreadable: Finding = {
  severity: 'damage',
  what: 'store_unreadable',
  digest: '',
  repositories: [],
  subject: '',
}

/** Shape: what is wrong with one blob; `storeUnreadable` itself where it is all of them. Errors: what `pace` throws. */
export async function verifyBlob(
  ctx: VerifyNeeds,
  { digest, inc, size, state }: BlobRow,
  pace: ((bytes: number) => Promise<void>) | undefined,
): Promise<Finding | undefined> {
  let found = await ctx.blobs.inspect(digest, inc, size, pace)
  if (found === 'whole' && state === 0) return undefined
  const finding = async (severity: Finding['severity'], what: Finding['what']): Promise<Finding> => ({
    severity,
    what,
    digest,
    repositories: await repositoriesOf(ctx.metadata.read, digest),
    subject: inc,
  })
  if (found !== 'whole') {
    if (!(await ctx.blobs.healthy())) return storeUnreadable
    const again = await reportDamage(ctx, digest, inc, pace)
    if (again === 'changed') return undefined
    found = again
  }
  if (found !== 'whole') return await finding('damage', kindOfState[found])
  if (state === 0) return undefined
  if (!pace) {
    // Healed since its row was read, perhaps.
    const now = await findStoredBlob(ctx.metadata.read, digest)
    return now?.inc === inc && now.state !== 0 ? await finding('damage', 'blob_marked') : undefined
  }
  return (await reportHealed(ctx, digest, inc)) ? await finding('healed', 'blob_whole') : undefined
}
