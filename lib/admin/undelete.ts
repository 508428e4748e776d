import { type Append, change } from '../journal/change.ts'
import { isMetadataError } from '../metadata/errors.ts'
import { findManifest } from '../metadata/manifests.ts'
import type { RepositoryId } from '../metadata/repositories.ts'
import type { Sql } from '../metadata/sql.ts'
import { addTagHistory, setTag } from '../metadata/tags.ts'
import {
  findDeletedManifest,
  findDeletedRepository,
  lastOfTag,
  lostTags,
  missingTargets,
  restoreManifest,
  restoreRepository,
} from '../metadata/undelete.ts'
import type { Digest } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'
import { parseReference, type RepositoryName, type Tag } from '../oci/names.ts'
import { RegistryService } from './gen/mcr/v1/registry_pb.ts'
import { repositoryOf } from './input.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'
import { mustFindRepository } from './repositories.ts'

const { undelete } = RegistryService.method

/** What was deleted comes back while its space has not been collected (S7). */
export const undeleteOperations: readonly Operation[] = [
  operation(undelete, {
    summary: 'bring back a deleted tag, manifest or repository, while garbage collection has not taken it',
    action: ({ repository }) => [{ anyOf: ['repository:manage'], repository: repositoryOf(repository) }],
    rest: { method: 'POST', path: '/v1/repositories/:repository+/-/undelete' },
    cli: { words: 'undelete', args: ['repository', 'reference'] },
    async run(input, call, ctx) {
      const repository = repositoryOf(input.repository)
      if (input.reference === '') return await undeleteRepository(repository, call, ctx)
      const reference = parseReference(input.reference)
      return await change(ctx, call, async (sql, append) => {
        const id = await mustFindRepository(sql, repository)
        const digest = reference.kind === 'digest' ? reference.digest : await lastOfTag(sql, id, reference.tag)
        if (digest === undefined)
          throw ociError('NOT_FOUND', undefined, { message: `${input.reference} was not deleted, or is there` })
        const restored = await bringBack(sql, repository, id, digest, append)
        if (reference.kind === 'digest' && !restored)
          throw ociError('NOT_FOUND', undefined, {
            message: `${digest} was not deleted here, or garbage collection has taken it`,
          })
        const lost = await lostTags(sql, id, digest)
        const wanted = reference.kind === 'digest' ? lost : lost.filter(({ name }) => name === reference.tag)
        const free = wanted.filter(({ taken }) => !taken).map(({ name }) => name)
        if (reference.kind === 'tag' && free.length === 0)
          throw ociError('CONFLICT', undefined, { message: `the tag ${reference.tag} names something else now` })
        for (const tag of free) await retag(sql, append, call, { repository, id, tag, digest, now: ctx.now() })
        return { repository, digest, tags: free, taken: wanted.filter(({ taken }) => taken).map(({ name }) => name) }
      })
    },
  }),
]

async function undeleteRepository(repository: RepositoryName, call: OperationCall, ctx: AdminContext) {
  try {
    return await change(ctx, call, async (sql, append) => {
      const id = await findDeletedRepository(sql, repository)
      if (id === undefined)
        throw ociError('NOT_FOUND', undefined, {
          message: `no deleted repository ${repository} is left: garbage collection has taken it, or it never was`,
        })
      await restoreRepository(sql, id)
      append({ type: 'repository_undeleted', repository })
      const tags = await sql.all<{ name: string }>(`SELECT name FROM tags WHERE repo_id = ? ORDER BY name LIMIT 10000`, [id])
      return { repository, tags: tags.map(({ name }) => name) }
    })
  } catch (error) {
    if (isMetadataError(error) && error.code === 'DB_CONSTRAINT')
      throw ociError('CONFLICT', undefined, { message: `there is a repository ${repository} again: delete it first, or keep it` })
    throw error
  }
}

/** Makes a manifest live again if it was deleted. Shape: whether it was. Errors: GONE where something that it needs has been collected. */
async function bringBack(
  sql: Sql,
  repository: RepositoryName,
  id: RepositoryId,
  digest: Digest,
  append: Append,
): Promise<boolean> {
  const manifest = await findDeletedManifest(sql, id, digest)
  if (manifest === undefined) {
    if (!(await findManifest(sql, repository, { kind: 'digest', digest })))
      throw ociError('GONE', { digest }, { message: `${digest} has been collected` })
    return false
  }
  const missing = await missingTargets(sql, id, manifest)
  if (missing.length > 0)
    throw ociError('GONE', { missing }, { message: `${digest} needs ${missing[0]}, which has been collected` })
  await restoreManifest(sql, id, manifest)
  append({ type: 'manifest_undeleted', repository, digest })
  return true
}

/** P5: a tag that comes back is a tag that is pushed. */
async function retag(
  sql: Sql,
  append: Append,
  call: OperationCall,
  { repository, id, tag, digest, now }: { repository: RepositoryName; id: RepositoryId; tag: Tag; digest: Digest; now: number },
): Promise<void> {
  await call.require('repository:manage', { repository, tag }, sql, `tag ${tag} may not come back`)
  const manifest = await findManifest(sql, repository, { kind: 'digest', digest })
  if (!manifest) return
  await setTag(sql, id, tag, manifest.id, now)
  const eventId = append({ type: 'tag_moved', repository, digest, tag, detail: { from: null } })
  await addTagHistory(sql, { repositoryId: id, tag, new: digest, eventId, now })
}
