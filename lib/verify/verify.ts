import type { StoredFile } from '../blobs/blob-store.ts'
import { orphansOf } from '../jobs/sweep-orphans.ts'
import {
  aliveInTrash,
  bodiesWithoutManifest,
  countEverything,
  linksWithoutBlob,
  repositoriesOf,
  tagsWithoutManifest,
  uploadsAfter,
} from '../metadata/integrity.ts'
import { listSegments } from '../metadata/uploads.ts'
import { storeUnreadable, type VerifyNeeds, verifyBlobs } from './blobs.ts'
import type { Counts, Finding, Progress } from './finding.ts'
import { verifyManifests } from './manifests.ts'

export type Verified =
  | { kind: 'finding'; finding: Finding }
  | { kind: 'progress'; progress: Progress }
  | { kind: 'result'; counts: Counts }

/** An upload that seems to lack a part may just be ending. */
const againMs = 500
/** How often it says how far it is. */
const tellMs = 1_000

/**
 * Proves over database and disk, beside everything that goes on: every reference has its link, every link its blob, every healthy blob a
 * file of its size, with `deep` of its bytes; manifests hash to their digests and name what their rows say; the trash names nothing that
 * is alive. What no row names is found too. Each finding is looked at twice, so that what changed meanwhile is none.
 * Damaged blobs are marked. Shape: findings and progress as they come, the counts last; without them it was aborted.
 */
export async function* verifyStorage(
  ctx: VerifyNeeds,
  options: { deep: boolean },
  signal: AbortSignal,
): AsyncGenerator<Verified> {
  const sql = ctx.metadata.read
  const all = await countEverything(sql)
  const counts: Counts = {
    ...{ manifests: 0, tags: all.tags, links: all.links, blobs: 0, bytes: 0, files: 0 },
    ...{ damage: 0, orphan: 0, absent: 0, healed: 0 },
  }
  let told = performance.now()
  const found = function* (findings: readonly Finding[]): Generator<Verified> {
    for (const finding of findings) {
      counts[finding.severity]++
      yield { kind: 'finding', finding }
    }
  }
  const tell = function* (phase: Progress['phase'], done: number, total: number, bytes = 0, totalBytes = 0): Generator<Verified> {
    if (performance.now() - told < tellMs) return
    told = performance.now()
    yield { kind: 'progress', progress: { phase, done, total, bytes, totalBytes } }
  }

  yield* found(await verifyRows(ctx))
  for await (const findings of verifyManifests(sql, ctx.limits)) {
    if (signal.aborted) return
    counts.manifests++
    yield* found(findings)
    yield* tell('manifests', counts.manifests, all.manifests)
    if (counts.manifests % 50 === 0) await breathe()
  }
  let bytes = 0
  const pace = async (more: number) => {
    bytes += more
    signal.throwIfAborted()
  }
  const looks = verifyBlobs(ctx, options.deep ? pace : undefined)
  for (let next = looks.next(); ; next = looks.next()) {
    // One file may take minutes: how far it is is told meanwhile.
    for (;;) {
      const first = await Promise.race([
        next.catch(() => {
          // Awaited again below, where its failure counts.
        }),
        new Promise<'still'>((go) => setTimeout(go, tellMs, 'still')),
      ])
      if (signal.aborted) return
      if (first !== 'still') break
      yield* tell('blobs', counts.blobs, all.blobs, bytes, all.bytes)
    }
    const { done, value } = await next
    if (done) break
    counts.blobs += value.blobs
    counts.bytes += value.bytes
    const unreadable = value.findings.includes(storeUnreadable)
    yield* found(unreadable ? [storeUnreadable] : value.findings)
    if (unreadable) return yield { kind: 'result', counts }
    yield* tell('blobs', counts.blobs, all.blobs, options.deep ? bytes : counts.bytes, all.bytes)
  }
  for await (const finding of verifyUploads(ctx)) {
    if (signal.aborted) return
    yield* found([finding])
  }
  for await (const files of ctx.blobs.list()) {
    if (signal.aborted) return
    counts.files += files.length
    yield* found(
      (await orphansStill(ctx, files)).map(({ incarnation, digest, part }) => ({
        ...{ severity: 'orphan' as const, what: 'orphan_file' as const, digest: digest ?? '', repositories: [] },
        subject: part ?? incarnation,
      })),
    )
    yield* tell('files', counts.files, counts.files)
  }
  yield { kind: 'result', counts }
}

/** What the database alone can say, table against table. */
async function verifyRows(ctx: VerifyNeeds): Promise<Finding[]> {
  const sql = ctx.metadata.read
  const found: Finding[] = []
  for (const { digest, repository } of await linksWithoutBlob(sql))
    found.push({ severity: 'damage', what: 'link_without_blob', digest, repositories: [repository], subject: '' })
  for (const { tag, repository } of await tagsWithoutManifest(sql))
    found.push({ severity: 'damage', what: 'tag_without_manifest', digest: '', repositories: [repository], subject: tag })
  for (const { inc, digest } of await aliveInTrash(sql))
    found.push({
      ...{ severity: 'damage', what: 'trash_alive', digest: digest ?? '', subject: inc },
      repositories: digest ? await repositoriesOf(sql, digest) : [],
    })
  for (const { digest } of await bodiesWithoutManifest(sql))
    found.push({ severity: 'orphan', what: 'orphan_body', digest, repositories: [], subject: '' })
  return found
}

/** Parts of uploads: a status must never claim bytes that are not there. */
async function* verifyUploads(ctx: VerifyNeeds): AsyncGenerator<Finding> {
  const sql = ctx.metadata.read
  for (let after = ''; ; ) {
    const uploads = await uploadsAfter(sql, after)
    const last = uploads.at(-1)
    if (!last) return
    for (const { inc, repository } of uploads) {
      const missing = async () => {
        const segments = await listSegments(sql, inc as never)
        for (const segment of segments) {
          if (await ctx.blobs.segmentsIntact(inc, [segment])) continue
          // A finisher that works, or died, between rename and row left the only one under its final name.
          if (segments.length === 1 && (await ctx.blobs.stat(segment.sha256, inc)) === segment.size) continue
          return segment.part
        }
        return undefined
      }
      const part = await missing()
      // One that ended meanwhile has no segments then.
      if (part !== undefined) await new Promise((resolve) => setTimeout(resolve, againMs))
      if (part !== undefined && (await missing()) === part)
        yield { severity: 'damage', what: 'upload_segment', digest: '', repositories: [repository], subject: part }
    }
    after = last.inc
  }
}

/** Files that no row names, and that are there still a moment later: what has ended may be about to remove its own. */
async function orphansStill(ctx: VerifyNeeds, files: readonly StoredFile[]): Promise<StoredFile[]> {
  const orphans = await orphansOf(ctx, files)
  if (orphans.length === 0) return []
  await new Promise((resolve) => setTimeout(resolve, againMs))
  const there: StoredFile[] = []
  for (const file of await orphansOf(ctx, orphans)) {
    const { digest, incarnation } = file
    const isThere = digest
      ? (await ctx.blobs.stat(digest, incarnation)) !== undefined
      : (await ctx.blobs.wouldRemove([file])).files > 0
    if (isThere) there.push(file)
  }
  return there
}

/** Requests first: looking holds the event loop. */
const breathe = () => new Promise((resolve) => setTimeout(resolve, 1))
