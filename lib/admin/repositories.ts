import type { MessageInitShape } from '@bufbuild/protobuf'
import { change } from '../journal/change.ts'
import { releasedBytes, releaseOf } from '../metadata/released.ts'
import {
  deleteRepository as buryRepository,
  findRepository,
  listRepositories as listNames,
  type RepositoryId,
  summarize,
} from '../metadata/repositories.ts'
import type { Sql } from '../metadata/sql.ts'
import { listTagRows, type TagRow } from '../metadata/tags.ts'
import { ociError } from '../oci/errors.ts'
import type { RepositoryName } from '../oci/names.ts'
import { RegistryService, type RepositorySchema, type TagSchema } from './gen/mcr/v1/registry_pb.ts'
import { parseAdminPage, repositoryOf, stamp } from './input.ts'
import { type AdminContext, type Operation, type OperationCall, operation } from './operation.ts'
import { releaseMessage } from './released.ts'

const { listRepositories, getRepository, deleteRepository } = RegistryService.method

/** Entries of one repository's answer: more by the lists of their own. */
const inDetail = 1000
/** Names looked at for one page at most: who may see few of many gets a short page, not a long wait. */
const lookedAt = 10_000

export const repositoryOperations: readonly Operation[] = [
  operation(listRepositories, {
    summary: 'list the repositories you may pull from',
    action: 'registry:catalog',
    rest: { method: 'GET', path: '/v1/repositories' },
    cli: { words: 'repo list', columns: ['name', 'tag_count', 'manifest_count', 'size', 'created_at'] },
    async run(input, call, ctx) {
      const { names, next } = await visibleNames(parseAdminPage(input), call, ctx)
      const repositories: MessageInitShape<typeof RepositorySchema>[] = []
      for (const name of names) {
        const found = await summarize(ctx.metadata.read, name)
        if (found)
          repositories.push({
            name,
            tagCount: BigInt(found.tags),
            manifestCount: BigInt(found.manifests),
            size: BigInt(found.bytes),
            createdAt: stamp(found.createdAt),
          })
      }
      return { repositories, next }
    },
  }),
  operation(getRepository, {
    summary: 'one repository with its tags and manifests',
    action: ({ repository }) => [{ anyOf: ['registry:pull'], repository: repositoryOf(repository) }],
    rest: { method: 'GET', path: '/v1/repositories/:repository+' },
    cli: { words: 'repo show', args: ['repository'] },
    async run(input, _call, ctx) {
      const sql = ctx.metadata.read
      const found = await summarize(sql, input.repository)
      const id = await mustFindRepository(sql, input.repository)
      if (!found) throw unknownRepository(input.repository)
      const manifests = await sql.all<{
        digest: string
        mediaType: string
        artifactType: string | null
        subject: string | null
        size: number
        createdAt: number
      }>(
        `SELECT digest, media_type AS mediaType, artifact_type AS artifactType, subject, size, created_at AS createdAt
         FROM manifests WHERE repo_id = ? AND deleted_epoch IS NULL ORDER BY id DESC LIMIT ${inDetail}`,
        [id],
      )
      return {
        name: found.name,
        tagCount: BigInt(found.tags),
        manifestCount: BigInt(found.manifests),
        size: BigInt(found.bytes),
        createdAt: stamp(found.createdAt),
        tags: (await listTagRows(sql, id, { limit: inDetail, after: '', offset: 0 })).map(tagMessage),
        manifests: manifests.map(manifestMessage),
      }
    },
  }),
  operation(deleteRepository, {
    summary: 'delete a repository with everything in it',
    action: ({ repository }) => [{ anyOf: ['repository:manage'], repository: repositoryOf(repository) }],
    rest: { method: 'DELETE', path: '/v1/repositories/:repository+' },
    cli: { words: 'repo delete', args: ['repository'] },
    async run({ repository }, call, ctx) {
      const before = await mustFindRepository(ctx.metadata.read, repository)
      const released = await releasedBytes(ctx.metadata.read, before, null)
      const gone = await change(ctx, call, async (sql, append) => {
        const id = await mustFindRepository(sql, repository)
        const found = await summarize(sql, repository)
        // P5: every tag that goes is asked for.
        for (let after = ''; ; ) {
          const tags = await listTagRows(sql, id, { limit: 1000, after, offset: 0 })
          for (const { name } of tags)
            await call.require('registry:delete', { repository, tag: name }, sql, `tag ${name} may not be deleted`)
          if (tags.length < 1000) break
          after = tags.at(-1)?.name ?? ''
        }
        await buryRepository(sql, id)
        const detail = { tags: found?.tags ?? 0, manifests: found?.manifests ?? 0 }
        append({ type: 'repository_deleted', repository, detail })
        return detail
      })
      const space = releaseMessage(await releaseOf(ctx.metadata.read, ctx.retention, ctx.now(), released))
      return { tagsDeleted: BigInt(gone.tags), manifestsDeleted: BigInt(gone.manifests), ...space }
    },
  }),
]

/** Names that the caller may pull from, a page of them. */
async function visibleNames(
  page: { limit: number; after: string; offset: number },
  call: OperationCall,
  ctx: AdminContext,
): Promise<{ names: RepositoryName[]; next: string }> {
  const names: RepositoryName[] = []
  let { after } = page
  let skip = page.offset
  for (let looked = 0; looked < lookedAt; ) {
    const batch = await listNames(ctx.metadata.read, 500, after)
    for (const name of batch) {
      if (names.length === page.limit) return { names, next: after }
      looked++
      after = name
      if (!(await call.decide('registry:pull', { repository: name })).allow) continue
      if (skip > 0) skip--
      else names.push(name)
    }
    if (batch.length < 500) return { names, next: '' }
  }
  return { names, next: after }
}

/** Errors: NAME_UNKNOWN. */
export async function mustFindRepository(sql: Sql, name: string): Promise<RepositoryId> {
  const id = await findRepository(sql, repositoryOf(name))
  if (id === undefined) throw unknownRepository(name)
  return id
}

const unknownRepository = (name: string) => ociError('NAME_UNKNOWN', { name }, { message: `there is no repository ${name}` })

export function tagMessage({ name, digest, updatedAt }: TagRow): MessageInitShape<typeof TagSchema> {
  return { name, digest, updatedAt: stamp(updatedAt) }
}

export function manifestMessage(row: {
  digest: string
  mediaType: string
  artifactType: string | null
  subject: string | null
  size: number
  createdAt: number
}) {
  return {
    digest: row.digest,
    mediaType: row.mediaType,
    artifactType: row.artifactType ?? '',
    subject: row.subject ?? '',
    size: BigInt(row.size),
    createdAt: stamp(row.createdAt),
  }
}
