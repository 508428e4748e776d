import type { Base, Ports } from '../context.ts'
import { type Actor, change } from '../journal/change.ts'
import { findLinkedBlob, findStoredBlob, linkBlob, storeBlob, touchLink } from '../metadata/blobs.ts'
import {
  claimUpload,
  discardUpload,
  endUpload,
  findUpload,
  listSegments,
  releaseUpload,
  touchUpload,
  type Upload,
} from '../metadata/uploads.ts'
import { algorithmOf, type Digest } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'
import type { RepositoryName } from '../oci/names.ts'
import type { Segment } from './blob-store.ts'
import { isBlobStoreError } from './errors.ts'
import { outOfOrder } from './receive.ts'

type Needs = Base & Pick<Ports, 'metadata' | 'blobs' | 'limits'>

/** How often a long body or a long join tells the database that somebody still works on it. */
const heartbeatMs = 15_000

/**
 * Ends an upload: last bytes, digest, durable file under its final name, then one transaction with row, link and journal (T3).
 * `onMismatch` says what a wrong digest leaves: the session as it was, or nothing.
 * Errors: DIGEST_INVALID, SIZE_INVALID, BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID 416 while another request works on the upload.
 * Source: end-4b, end-6.
 */
export async function finishUpload(
  ctx: Needs,
  actor: Actor,
  name: RepositoryName,
  upload: Upload,
  digest: Digest,
  body: unknown,
  expected: number | undefined,
  onMismatch: 'keep' | 'discard',
): Promise<void> {
  const earlier = await listSegments(ctx.metadata.read, upload.inc)
  // Two statements see two states: the upload may have ended, or grown, since it was found.
  if (earlier.length < upload.segments) {
    // Ended with this digest by a request that this one repeats: as good as done here.
    const linked = await findLinkedBlob(ctx.metadata.read, name, digest)
    if (linked && (await ctx.metadata.write((sql) => touchLink(sql, linked.repositoryId, digest)))) return
    throw ended()
  }
  if (earlier.length > upload.segments) throw outOfOrder(name, upload)
  // A finisher that died between rename and row left the bytes, already proven, under their final name.
  const isRenamed = async () => earlier.length === 1 && (await ctx.blobs.stat(digest, upload.inc)) === upload.size
  let renamed = await isRenamed()
  if (!renamed && !(await ctx.blobs.segmentsIntact(upload.inc, earlier))) {
    // Another request may have renamed the part between the two looks, and goes on to its row.
    renamed = await isRenamed()
    if (!renamed) {
      await ctx.metadata.write((sql) => discardUpload(sql, upload.inc))
      throw ociError('BLOB_UPLOAD_UNKNOWN', 'part of the upload is gone; start again')
    }
  }
  const own: Segment[] = []
  const owner = ctx.newId()
  let claimed = false
  try {
    const limit = ctx.limits.blobBytes - upload.size
    if (expected !== 0 || earlier.length === 0)
      own.push(await whileAlive(ctx, upload, null, () => ctx.blobs.writeSegment(upload.inc, body, { limit, expected })))
    if (earlier.length > 0 && own[0]?.size === 0) await dropAll(ctx, upload, own.splice(0))
    const segments = [...earlier, ...own]
    const algorithm = algorithmOf(digest)
    let whole = segments[0] as Segment
    let actual: Digest
    if (segments.length > 1) {
      // Joining reads and writes everything once more: only one request does it, and the others are told to wait.
      claimed = await ctx.metadata.write((sql) => claimUpload(sql, upload, actor.principal.subject, owner, ctx.now()))
      if (!claimed) throw outOfOrder(name, upload)
      const joined = await whileAlive(ctx, upload, owner, () => ctx.blobs.join(upload.inc, segments, algorithm))
      own.push(joined.segment)
      whole = joined.segment
      actual = joined.digest
    } else if (renamed) {
      actual = digest
    } else {
      actual = algorithm === 'sha256' ? whole.sha256 : await ctx.blobs.hash(upload.inc, whole.part, algorithm)
    }
    if (actual !== digest) throw ociError('DIGEST_INVALID', { expected: digest, actual })
    await ctx.blobs.commit(upload.inc, whole.part, digest)
    await store(ctx, actor, name, upload, { digest, inc: upload.inc, size: whole.size }, claimed ? owner : null)
    ctx.count('uploaded_bytes_total', {}, whole.size)
    // Joined pieces have no row any more; a crash before this line leaves them to the sweeper.
    await dropAll(ctx, upload, segments.length > 1 ? [...earlier, ...own.filter((segment) => segment !== whole)] : [])
  } catch (error) {
    // Expired or cancelled meanwhile: its files went with its row, and what the disk then says is no failure of the disk.
    const gone =
      isBlobStoreError(error) &&
      error.code === 'BLOB_IO' &&
      !(await findUpload(ctx.metadata.read, name, upload.inc, actor.principal.subject, ctx.now()))
    if (onMismatch === 'discard') await abandon(ctx, upload)
    else {
      if (claimed) await ctx.metadata.write((sql) => releaseUpload(sql, upload.inc, owner, ctx.now()))
      await dropAll(ctx, upload, own)
    }
    throw gone ? ended() : error
  }
}

/** T3: fence, blob, link and journal in one transaction. The file it names is durable already. */
async function store(
  ctx: Needs,
  actor: Actor,
  name: RepositoryName,
  upload: Upload,
  blob: { digest: Digest; inc: string; size: number },
  owner: string | null,
): Promise<void> {
  const before = await findStoredBlob(ctx.metadata.read, blob.digest)
  const damaged = before && (await ctx.blobs.stat(blob.digest, before.inc)) !== before.size ? before.inc : undefined
  await change(ctx, actor, async (sql, append) => {
    if (!(await endUpload(sql, upload, actor.principal.subject, owner))) {
      // Lost the fence: finished elsewhere with this digest is as good as done here (a retried request after a lost answer).
      if (await findLinkedBlob(sql, name, blob.digest)) return void (await touchLink(sql, upload.repositoryId, blob.digest))
      throw ended()
    }
    const outcome = await storeBlob(sql, blob, damaged)
    if (outcome === 'healed') append({ type: 'blob_healed', digest: blob.digest, detail: { incarnation: blob.inc } })
    await linkBlob(sql, upload.repositoryId, blob.digest)
    append({ type: 'blob_uploaded', repository: name, digest: blob.digest, detail: { size: blob.size } })
  })
}

/** Ends an upload without a blob: the row first, then its files. */
export async function abandon(ctx: Needs, upload: Pick<Upload, 'inc'>): Promise<boolean> {
  const was = await ctx.metadata.write((sql) => discardUpload(sql, upload.inc))
  if (was) await ctx.blobs.remove([{ incarnation: upload.inc }])
  return was
}

const ended = () => ociError('BLOB_UPLOAD_UNKNOWN', 'the upload ended while its last request ran')

async function dropAll(ctx: Needs, upload: Upload, segments: readonly Segment[]): Promise<void> {
  for (const segment of segments) await ctx.blobs.dropSegment(upload.inc, segment.part)
}

/** Runs something long while telling the database every few seconds that the upload is not forgotten. */
export async function whileAlive<T>(ctx: Needs, upload: Upload, owner: string | null, work: () => Promise<T>): Promise<T> {
  const beat = setInterval(() => {
    ctx.metadata
      .write((sql) => touchUpload(sql, upload.inc, owner, ctx.now()))
      .catch((error) => ctx.log({ level: 'warn', event: 'upload_heartbeat_failed', upload: upload.inc, error: String(error) }))
  }, heartbeatMs)
  try {
    return await work()
  } finally {
    clearInterval(beat)
  }
}
