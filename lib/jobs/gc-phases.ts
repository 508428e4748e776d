import type { Append } from '../journal/change.ts'
import {
  type Candidate,
  dropBlob,
  dropEmptyRepositories,
  dropLink,
  dropManifest,
  dropNeverUsed,
  giveUpRepository,
  type Horizon,
  judgeBlob,
  judgeDeleted,
  judgeLink,
  judgeUntagged,
  neverUsedRepositories,
} from '../metadata/garbage.ts'
import {
  deletedManifests,
  deletedRepositories,
  everyBlob,
  everyOf,
  hiddenLinks,
  queued,
  type Source,
  settle,
} from '../metadata/garbage-queue.ts'
import { setWatch } from '../metadata/gc-runs.ts'
import type { RepositoryId } from '../metadata/repositories.ts'
import type { Sql } from '../metadata/sql.ts'
import type { RepositoryName } from '../oci/names.ts'
import { compileGlob } from '../policy/glob.ts'
import { breathe, type Collection, enterPhase, mayGoOn, orLeaveOut, type Taken, takeEach } from './gc-pace.ts'

/** No dry run: nothing counts as gone before it is. */
const nothing = ''
const tagsAtOnce = 200

/** T7a: manifests deleted before the window, those of repositories that were, and untagged ones where a rule says so. */
export async function collectManifests(c: Collection, horizon: Horizon, full: boolean): Promise<void> {
  const { read } = c.ctx.metadata
  const takeDeleted = (sql: Sql, append: Append, item: Candidate) =>
    takeManifest(c, sql, append, item, async () => (await judgeDeleted(sql, item, horizon)).garbage)
  await enterPhase(c, 'deleted manifests')
  await takeEach(c, 'manifest', deletedManifests(read, horizon.deleted, c.run.repoId), takeDeleted)
  if (c.run.repoId === null)
    for (const id of await deletedRepositories(read, horizon.deleted))
      await orLeaveOut(c, `repository ${id}`, async () => {
        await mayGoOn(c)
        if (!(await c.ctx.metadata.write((sql) => giveUpRepository(sql, id, horizon)))) return
        while ((await c.ctx.metadata.write((sql) => dropTags(sql, id))) === tagsAtOnce) {
          await breathe(c, 1, tagsAtOnce)
          await mayGoOn(c)
        }
        await takeEach(c, 'manifest', everyOf(read, 'manifest', id), takeDeleted)
      })
  await collectUntagged(c, horizon, full)
}

async function collectUntagged(c: Collection, horizon: Horizon, full: boolean): Promise<void> {
  const { metadata, retention } = c.ctx
  await metadata.write((sql) => setWatch(sql, retention.untagged !== undefined))
  await enterPhase(c, 'untagged manifests')
  const applies = ruleOf(c)
  const take = async (sql: Sql, append: Append, item: Candidate) => {
    const verdict = (await applies(sql, item.repoId)) ? await judgeUntagged(sql, item, horizon, nothing) : {}
    await settle(sql, 'manifest', item, verdict.garbage === undefined ? verdict.later : undefined)
    return await takeManifest(c, sql, append, item, async () => verdict.garbage)
  }
  if (full && retention.untagged) await takeEach(c, 'manifest', everyOf(metadata.read, 'manifest', c.run.repoId), take)
  // What goes sets free what it protected, which is in the queue then.
  const from = () =>
    queued(metadata.read, 'manifest', retention.untagged ? horizon.untagged : Number.MAX_SAFE_INTEGER, c.run.repoId)
  while ((await takeEach(c, 'manifest', from(), take)) > 0);
}

/** Whether the rule for untagged manifests covers a repository that is not deleted. */
export function ruleOf(c: Collection): (sql: Sql, repoId: number) => Promise<boolean> {
  const globs = (c.ctx.retention.untagged?.repositories ?? []).map(compileGlob)
  const known = new Map<number, boolean>()
  return async (sql, repoId) => {
    let covered = known.get(repoId)
    if (covered === undefined) {
      const [row] = await sql.all<{ name: string }>(`SELECT name FROM repositories WHERE id = ? AND deleted_epoch IS NULL`, [
        repoId,
      ])
      covered = row !== undefined && globs.some((matches) => matches(row.name))
      known.set(repoId, covered)
    }
    return covered
  }
}

async function takeManifest(
  c: Collection,
  sql: Sql,
  append: Append,
  item: Candidate,
  judge: () => Promise<string | undefined>,
): Promise<Taken | undefined> {
  const why = await judge()
  if (why === undefined) return undefined
  const [row] = await sql.all<{ name: RepositoryName }>(`SELECT name FROM repositories WHERE id = ?`, [item.repoId])
  await dropManifest(sql, item)
  append({ type: 'manifest_collected', repository: row?.name ?? '', digest: item.digest, detail: { gc_id: c.run.id, why } })
  return { manifests: 1 }
}

async function dropTags(sql: Sql, repoId: number | RepositoryId): Promise<number> {
  return await sql.run(
    `DELETE FROM tags WHERE repo_id = ? AND name IN (SELECT name FROM tags WHERE repo_id = ? ORDER BY name LIMIT ${tagsAtOnce})`,
    [repoId, repoId],
  )
}

/** T7b. */
export async function collectLinks(c: Collection, horizon: Horizon, full: boolean): Promise<void> {
  const { read } = c.ctx.metadata
  const take = async (sql: Sql, _append: Append, item: Candidate) => {
    const verdict = await judgeLink(sql, item, horizon, nothing)
    await settle(sql, 'link', item, verdict.garbage === undefined ? verdict.later : undefined)
    if (verdict.garbage === undefined) return undefined
    await dropLink(sql, item)
    return { links: 1 }
  }
  await enterPhase(c, 'links')
  for (const source of linkSources(c, horizon, full, read)) await takeEach(c, 'link', source, take)
}

export function linkSources(c: Collection, horizon: Horizon, full: boolean, read: Sql): Source[] {
  const { repoId } = c.run
  const hidden = hiddenLinks(read, horizon.deleted, repoId)
  // One repository is looked at whole: the queue has no order by repository.
  if (repoId !== null) return [hidden, everyOf(read, 'link', repoId)]
  const queue = queued(read, 'link', horizon.cold, null)
  return full ? [hidden, everyOf(read, 'link', null), queue] : [hidden, queue]
}

export function blobSources(horizon: Horizon, full: boolean, read: Sql): Source[] {
  const queue = queued(read, 'blob', horizon.cold, null)
  return full ? [everyBlob(read), queue] : [queue]
}

/** T7c; and repositories that hold nothing any more, or, in a full check, never did. */
export async function collectBlobs(c: Collection, horizon: Horizon, full: boolean): Promise<void> {
  const { read } = c.ctx.metadata
  const take = async (sql: Sql, _append: Append, item: Candidate) => {
    const { garbage, later, inc, size } = await judgeBlob(sql, item, horizon, nothing)
    await settle(sql, 'blob', item, garbage === undefined ? later : undefined)
    if (garbage === undefined || inc === undefined) return undefined
    await dropBlob(sql, item.digest, inc)
    return { blobs: 1, bytes: size ?? 0, blobDigest: item.digest }
  }
  await enterPhase(c, 'blobs')
  for (const source of blobSources(horizon, full, read)) await takeEach(c, 'blob', source, take)
  await orLeaveOut(c, 'repositories', async () => {
    while ((await c.ctx.metadata.write((sql) => dropEmptyRepositories(sql, horizon))) > 0) await breathe(c, 1, 0)
    if (!full) return
    const { now, retention, metadata } = c.ctx
    const before = now() - retention.windowAfter * retention.epochMs
    for await (const ids of neverUsedRepositories(read, before)) {
      await mayGoOn(c)
      if (ids.length > 0) await metadata.write((sql) => dropNeverUsed(sql, ids, before))
      await breathe(c, 1, ids.length)
    }
  })
}
