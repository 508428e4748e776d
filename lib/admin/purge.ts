import { change } from '../journal/change.ts'
import { deleteManifest, touchManifest } from '../metadata/manifests.ts'
import { releasedBytes, releaseOf } from '../metadata/released.ts'
import { findRepository, listRepositories } from '../metadata/repositories.ts'
import type { Sql } from '../metadata/sql.ts'
import { type TagRow, tagsByAge, tagsOf } from '../metadata/tags.ts'
import { isOciError } from '../oci/errors.ts'
import type { RepositoryName } from '../oci/names.ts'
import { compileGlob } from '../policy/glob.ts'
import { RegistryService } from './gen/mcr/v1/registry_pb.ts'
import { invalid, parseDuration, stamp } from './input.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'
import { releaseMessage } from './released.ts'
import { mustFindRepository } from './repositories.ts'
import { untag } from './tags.ts'

const { purge } = RegistryService.method

/** Tags deleted in one transaction. */
const batch = 100

interface Purged {
  repository: string
  tag: string
  digest: string
  updatedAt: ReturnType<typeof stamp>
  kept: string
}

/** Old tags go, the newest stay (A6): by when a tag was last pushed, `latest` neither counted nor deleted unless told. */
export const purgeOperations: readonly Operation[] = [
  operation(purge, {
    summary: 'delete all but the newest tags of repositories, with the manifests that nothing names any more',
    action: 'registry:catalog',
    rest: { method: 'POST', path: '/v1/purge' },
    cli: { words: 'purge', args: ['repositories'], columns: ['repository', 'tag', 'digest', 'updated_at', 'kept'] },
    async run(input, call, ctx) {
      if (input.keep < 0) throw invalid('keep', 'a whole number, 0 or more')
      if (input.keep === 0 && input.olderThan === '') throw invalid('keep', 'at least one of keep and older_than')
      const before = input.olderThan === '' ? Number.MAX_SAFE_INTEGER : ctx.now() - parseDuration('older_than', input.olderThan)
      const tags: Purged[] = []
      let released = 0
      for (const repository of await repositoriesOf(input.repositories, call, ctx)) {
        const id = await findRepository(ctx.metadata.read, repository)
        if (id === undefined) continue
        const all = await tagsByAge(ctx.metadata.read, id)
        const counted = input.includeLatest ? all : all.filter(({ name }) => name !== 'latest')
        const old = counted.slice(input.keep).filter(({ updatedAt }) => updatedAt < before)
        for (let at = 0; at < old.length; at += batch) {
          const purged = await purgeTags(repository, old.slice(at, at + batch), input.dryRun, call, ctx)
          tags.push(...purged.rows)
          released += purged.released
        }
      }
      const kept = tags.filter((tag) => tag.kept !== '').length
      const deleted = tags.length - kept
      if (deleted > 0 && !input.dryRun)
        await change(ctx, call, async (_sql, append) => {
          append({ type: 'purged', detail: { deleted, kept } })
        })
      const space = releaseMessage(await releaseOf(ctx.metadata.read, ctx.retention, ctx.now(), released))
      return { tags, deleted, kept, dryRun: input.dryRun, ...space }
    },
  }),
]

/** The repositories that the globs name and the caller may delete from. */
async function repositoriesOf(globs: readonly string[], call: OperationCall, ctx: AdminContext): Promise<RepositoryName[]> {
  let matchers: ((name: string) => boolean)[]
  try {
    matchers = globs.map(compileGlob)
  } catch (error) {
    throw invalid('repositories', (error as Error).message)
  }
  const names: RepositoryName[] = []
  for (let after = ''; ; ) {
    const page = await listRepositories(ctx.metadata.read, 1000, after)
    for (const name of page) {
      if (matchers.length > 0 && !matchers.some((matches) => matches(name))) continue
      if ((await call.decide('registry:delete', { repository: name })).allow) names.push(name)
    }
    if (page.length < 1000) return names
    after = page.at(-1) as string
  }
}

async function purgeTags(
  repository: RepositoryName,
  old: readonly TagRow[],
  dryRun: boolean,
  call: OperationCall,
  ctx: AdminContext,
): Promise<{ rows: Purged[]; released: number }> {
  const row = (tag: TagRow, kept: string) => ({
    repository,
    tag: tag.name,
    digest: tag.digest,
    updatedAt: stamp(tag.updatedAt),
    kept,
  })
  if (dryRun) {
    const rows: Purged[] = []
    for (const tag of old) {
      const decision = await call.decide('registry:delete', { repository, tag: tag.name })
      rows.push(row(tag, decision.allow ? '' : decision.rule?.message || 'the policy keeps it'))
    }
    return { rows, released: 0 }
  }
  return await change(ctx, call, async (sql, append) => {
    const id = await mustFindRepository(sql, repository)
    const rows: Purged[] = []
    let released = 0
    for (const tag of old) {
      try {
        if (!(await isStill(sql, id, tag))) rows.push(row(tag, 'it was pushed again meanwhile'))
        else {
          await untag(sql, append, call, { repository, id, tag: tag.name, digest: tag.digest, now: ctx.now() })
          rows.push(row(tag, ''))
        }
      } catch (error) {
        if (!isOciError(error) || error.code !== 'DENIED') throw error
        rows.push(row(tag, error.message))
        continue
      }
      const needed = (await tagsOf(sql, id, tag.manifestId)).length > 0 || (await isChild(sql, id, tag.digest))
      if (needed) await touchManifest(sql, tag.manifestId)
      else {
        // What two of them share is counted when the second goes.
        released += await releasedBytes(sql, id, tag.manifestId)
        await deleteManifest(sql, tag.manifestId)
        append({ type: 'manifest_deleted', repository, digest: tag.digest, detail: { tags: [tag.name] } })
      }
    }
    return { rows, released }
  })
}

async function isStill(sql: Sql, repositoryId: number, tag: TagRow): Promise<boolean> {
  const rows = await sql.all(`SELECT 1 AS one FROM tags WHERE repo_id = ? AND name = ? AND manifest_id = ? AND updated_at = ?`, [
    repositoryId,
    tag.name,
    tag.manifestId,
    tag.updatedAt,
  ])
  return rows.length > 0
}

/** Whether a live index of the repository names the manifest. */
async function isChild(sql: Sql, repositoryId: number, digest: string): Promise<boolean> {
  const rows = await sql.all(
    `SELECT 1 AS one FROM refs f JOIN manifests m ON m.id = f.manifest_id
     WHERE f.digest = ? AND f.kind = 'child' AND m.repo_id = ? AND m.deleted_epoch IS NULL LIMIT 1`,
    [digest, repositoryId],
  )
  return rows.length > 0
}
