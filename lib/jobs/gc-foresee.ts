import {
  type Candidate,
  deadIncarnations,
  type Horizon,
  judgeBlob,
  judgeDeleted,
  judgeLink,
  judgeUntagged,
  pinned,
  type Verdict,
} from '../metadata/garbage.ts'
import {
  deletedManifests,
  deletedRepositories,
  everyOf,
  type GarbageKind,
  queued,
  type Source,
} from '../metadata/garbage-queue.ts'
import { addFindings, type Finding, following, forgetFindings } from '../metadata/gc-findings.ts'
import { noteRun } from '../metadata/gc-runs.ts'
import type { Sql } from '../metadata/sql.ts'
import { idleUploads } from '../metadata/uploads.ts'
import { idleNow } from './expire-uploads.ts'
import { breathe, type Collection, enterPhase, mayGoOn, note, Stopped } from './gc-pace.ts'
import { blobSources, linkSources, ruleOf } from './gc-phases.ts'

type Judged = Verdict & { inc?: string }

/**
 * A dry run: the same sources and judgements as a run, with what was found so far counted as gone. It notes each manifest, link and blob
 * with the reason, and exactly the bytes of their files; those of a file that a snapshot has another name of stay and are told apart.
 */
export async function foresee(c: Collection, horizon: Horizon, full: boolean): Promise<void> {
  const { read, write } = c.ctx.metadata
  const { id, repoId } = c.run
  // Not those of who took the run over.
  const forget = async (sql: Sql) => ((await noteRun(sql, c, c.ctx.now(), {})) ? await forgetFindings(sql) : 0)
  while ((await write(forget)) > 0) await breathe(c, 1, 0)

  if (repoId === null) {
    await enterPhase(c, 'uploads')
    await weighUploads(c)
  }
  await enterPhase(c, 'deleted manifests')
  const deleted = (sql: Sql, item: Candidate) => judgeDeleted(sql, item, horizon)
  await findEach(c, 'manifest', deletedManifests(read, horizon.deleted, repoId), deleted)
  if (repoId === null)
    for (const repository of await deletedRepositories(read, horizon.deleted))
      await findEach(c, 'manifest', everyManifest(read, repository), deleted)

  await enterPhase(c, 'untagged manifests')
  if (c.ctx.retention.untagged) {
    const applies = ruleOf(c)
    const untagged = async (sql: Sql, item: Candidate) =>
      (await applies(sql, item.repoId)) ? await judgeUntagged(sql, item, horizon, id) : {}
    await findEach(
      c,
      'manifest',
      full || repoId !== null ? everyOf(read, 'manifest', repoId) : queued(read, 'manifest', horizon.untagged, null),
      untagged,
    )
    while ((await findEach(c, 'manifest', following(read, id, 'manifests of manifests'), untagged)) > 0);
  }

  await enterPhase(c, 'links')
  const link = (sql: Sql, item: Candidate) => judgeLink(sql, item, horizon, id)
  for (const source of [...linkSources(c, horizon, full, read), following(read, id, 'links of manifests')])
    await findEach(c, 'link', source, link)

  await enterPhase(c, 'blobs')
  const blob = (sql: Sql, item: Candidate) => judgeBlob(sql, item, horizon, id)
  for (const source of [...blobSources(horizon, full, read), following(read, id, 'blobs of links')])
    await findEach(c, 'blob', source, blob)

  await enterPhase(c, 'files')
  await weighTrash(c)
}

/** All manifests of a repository, tagged or not: its tags go with it. */
async function* everyManifest(read: Sql, repoId: number): Source {
  for (let at = ''; ; ) {
    const items = await read.all<Candidate>(
      `SELECT repo_id AS repoId, digest FROM manifests WHERE repo_id = ? AND digest > ? ORDER BY digest LIMIT 200`,
      [repoId, at],
    )
    if (items.length === 0) return
    yield { items, progress: 0 }
    at = items.at(-1)?.digest ?? ''
  }
}

async function findEach(
  c: Collection,
  kind: GarbageKind,
  source: Source,
  judge: (sql: Sql, item: Candidate) => Promise<Judged>,
): Promise<number> {
  let found = 0
  for await (const { items, progress } of source) {
    await mayGoOn(c)
    const started = performance.now()
    const findings: Finding[] = []
    for (const { repoId, digest } of items) {
      const { garbage, inc } = await judge(c.ctx.metadata.read, { repoId, digest })
      if (garbage === undefined) continue
      // What the file really weighs: one that is missing gives nothing back.
      const file = inc === undefined ? undefined : await c.ctx.blobs.weigh(digest, inc)
      const held = file !== undefined && file.otherNames > 0
      findings.push({ kind, repoId, digest, why: garbage, size: held ? 0 : (file?.size ?? 0), shared: held ? file.size : 0 })
    }
    if (findings.length > 0) {
      // With their numbers, or not at all: whoever took the run over counts anew.
      found += await c.ctx.metadata.write(async (sql) => {
        const { added, size, shared } = await addFindings(sql, c.run.id, findings)
        const isMine = await noteRun(sql, c, c.ctx.now(), { [`${kind}s` as const]: added, bytes: size, shared })
        if (!isMine) throw new Stopped('another process went on with it')
        return added
      })
    }
    c.progress = progress
    await breathe(c, performance.now() - started, items.length)
  }
  return found
}

/** Uploads that would expire, and their files, which go with the run. */
async function weighUploads(c: Collection): Promise<void> {
  for (let after: { touchedAt: number; inc: string } | undefined; ; ) {
    await mayGoOn(c)
    const idle = await idleUploads(c.ctx.metadata.read, idleNow(c.ctx), after)
    after = idle.at(-1)
    if (after === undefined) return
    const [pin] = await c.ctx.metadata.read.all<{ held: number }>(`SELECT ${pinned} AS held`)
    const dead = pin?.held ? [] : idle.map(({ inc }) => ({ incarnation: inc }))
    const { files, bytes, shared } = await c.ctx.blobs.wouldRemove(dead)
    await note(c, { uploads: idle.length, files, reaped: bytes, shared })
    await breathe(c, 1, idle.length)
  }
}

/** Files that wait in the trash and would go now. */
async function weighTrash(c: Collection): Promise<void> {
  const quarantineAfter = c.run.skipWindow !== 0 ? 0 : c.ctx.retention.quarantineAfter
  for (let after = ''; ; ) {
    await mayGoOn(c)
    const dead = await deadIncarnations(c.ctx.metadata.read, { after, quarantineAfter })
    if (dead.length === 0) return
    const { files, bytes, shared } = await c.ctx.blobs.wouldRemove(dead)
    await note(c, { files, reaped: bytes, shared })
    after = dead.at(-1)?.incarnation ?? ''
    await breathe(c, 1, dead.length)
  }
}
