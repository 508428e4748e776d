import { type Append, change } from '../journal/change.ts'
import { deleteManifest as buryManifest, findManifest, readManifestBody, touchManifest } from '../metadata/manifests.ts'
import { releasedBytes, releaseOf, releaseOfUntag } from '../metadata/released.ts'
import type { RepositoryId } from '../metadata/repositories.ts'
import type { Sql } from '../metadata/sql.ts'
import { addTagHistory, findTag, listTagRows, removeTag, setTag, tagAt, tagHistory, tagsOf } from '../metadata/tags.ts'
import { type Digest, parseDigest } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'
import { isFallbackTag, parseReference, type RepositoryName, type Tag } from '../oci/names.ts'
import { RegistryService } from './gen/mcr/v1/registry_pb.ts'
import { cutPage, parseAdminPage, parseNumberAfter, repositoryOf, requireDigest, stamp, tagOf, timeOf } from './input.ts'
import { type Operation, type OperationCall, operation } from './operation.ts'
import { releaseMessage } from './released.ts'
import { manifestMessage, mustFindRepository, tagMessage } from './repositories.ts'

const { listTags, getTag, listTagHistory, moveTag, deleteTag, getManifest, deleteManifest } = RegistryService.method

const reads = ({ repository }: { repository: string }) => [
  { anyOf: ['registry:pull' as const], repository: repositoryOf(repository) },
]
const pushes = ({ repository }: { repository: string }) => [
  { anyOf: ['registry:push' as const], repository: repositoryOf(repository) },
]
const deletes = ({ repository }: { repository: string }) => [
  { anyOf: ['registry:delete' as const], repository: repositoryOf(repository) },
]

/** Tags and manifests of one repository. */
export const tagOperations: readonly Operation[] = [
  operation(listTags, {
    summary: 'list the tags of a repository',
    action: reads,
    rest: { method: 'GET', path: '/v1/repositories/:repository+/-/tags' },
    cli: { words: 'tag list', args: ['repository'], columns: ['name', 'digest', 'updated_at'] },
    async run(input, _call, ctx) {
      const page = parseAdminPage(input)
      const id = await mustFindRepository(ctx.metadata.read, input.repository)
      const { rows, next } = cutPage(
        await listTagRows(ctx.metadata.read, id, { ...page, limit: page.limit + 1 }),
        page.limit,
        (row) => row.name,
      )
      return { tags: rows.map(tagMessage), next }
    },
  }),
  operation(listTagHistory, {
    summary: 'what a tag named, when, and who changed it; newest first',
    action: reads,
    rest: { method: 'GET', path: '/v1/repositories/:repository+/-/tags/:tag/history' },
    cli: { words: 'tag history', args: ['repository', 'tag'], columns: ['at', 'actor_name', 'old_digest', 'new_digest'] },
    async run(input, _call, ctx) {
      const { limit, after } = parseAdminPage(input)
      const id = await mustFindRepository(ctx.metadata.read, input.repository)
      const before = parseNumberAfter(after, Number.MAX_SAFE_INTEGER)
      const found = await tagHistory(ctx.metadata.read, id, tagOf(input.tag), { limit: limit + 1, before })
      const { rows, next } = cutPage(found, limit, (row) => row.id)
      return {
        changes: rows.map((row) => ({
          at: stamp(row.at),
          oldDigest: row.oldDigest ?? '',
          newDigest: row.newDigest ?? '',
          eventId: row.eventId,
          actor: row.actor ?? '',
          actorName: row.actorName ?? row.actor ?? '',
        })),
        next,
      }
    },
  }),
  operation(getTag, {
    summary: 'what a tag names, now or at a time',
    action: reads,
    rest: { method: 'GET', path: '/v1/repositories/:repository+/-/tags/:tag' },
    cli: { words: 'tag show', args: ['repository', 'tag'] },
    async run(input, _call, ctx) {
      const sql = ctx.metadata.read
      const name = repositoryOf(input.repository)
      const tag = tagOf(input.tag)
      const at = timeOf('at', input.at)
      if (at === undefined) {
        const id = await mustFindRepository(sql, name)
        const manifest = await findManifest(sql, name, { kind: 'tag', tag })
        const [row] = await sql.all<{ updatedAt: number }>(
          `SELECT updated_at AS updatedAt FROM tags WHERE repo_id = ? AND name = ?`,
          [id, tag],
        )
        if (!manifest || !row) throw unknownTag(tag)
        return {
          name: tag,
          digest: manifest.digest,
          mediaType: manifest.mediaType,
          size: BigInt(manifest.size),
          updatedAt: stamp(row.updatedAt),
        }
      }
      const past = await tagAt(sql, await mustFindRepository(sql, name), tag, at)
      if (!past) throw ociError('NOT_FOUND', undefined, { message: `tag ${tag} named nothing at that time` })
      const manifest = await findManifest(sql, name, { kind: 'digest', digest: past.digest })
      if (!manifest)
        throw ociError(
          'GONE',
          { digest: past.digest },
          { message: `tag ${tag} named ${past.digest} then, which has been deleted since` },
        )
      return {
        name: tag,
        digest: past.digest,
        mediaType: manifest.mediaType,
        size: BigInt(manifest.size),
        updatedAt: stamp(past.at),
      }
    },
  }),
  operation(moveTag, {
    summary: 'point a tag at another manifest of its repository',
    action: pushes,
    rest: { method: 'PUT', path: '/v1/repositories/:repository+/-/tags/:tag' },
    cli: { words: 'tag move', args: ['repository', 'tag', 'to'] },
    async run(input, call, ctx) {
      const repository = repositoryOf(input.repository)
      const tag = tagOf(input.tag)
      const to = parseReference(input.to)
      return await change(ctx, call, async (sql, append) => {
        const id = await mustFindRepository(sql, repository)
        const manifest = await findManifest(sql, repository, to)
        if (!manifest)
          throw ociError('MANIFEST_UNKNOWN', undefined, { message: `there is no manifest ${input.to} in ${repository}` })
        const old = (await findTag(sql, id, tag))?.digest
        requireDigest(input.ifDigest, old)
        await call.require('registry:push', { repository, tag }, sql, `tag ${tag} may not be pushed`)
        if (old !== undefined && old !== manifest.digest && !isFallbackTag(tag))
          await call.require('registry:overwrite', { repository, tag }, sql, `tag ${tag} exists and may not be overwritten`)
        await setTag(sql, id, tag, manifest.id, ctx.now())
        await touchManifest(sql, manifest.id)
        const eventId = append({ type: 'tag_moved', repository, digest: manifest.digest, tag, detail: { from: old ?? null } })
        await addTagHistory(sql, { repositoryId: id, tag, old, new: manifest.digest, eventId, now: ctx.now() })
        return { name: tag, digest: manifest.digest, oldDigest: old ?? '' }
      })
    },
  }),
  operation(deleteTag, {
    summary: 'delete a tag; its manifest stays',
    action: deletes,
    rest: { method: 'DELETE', path: '/v1/repositories/:repository+/-/tags/:tag' },
    cli: { words: 'tag delete', args: ['repository', 'tag'] },
    async run(input, call, ctx) {
      const repository = repositoryOf(input.repository)
      const tag = tagOf(input.tag)
      return await change(ctx, call, async (sql, append) => {
        const id = await mustFindRepository(sql, repository)
        const found = await findTag(sql, id, tag)
        requireDigest(input.ifDigest, found?.digest)
        if (!found) throw unknownTag(tag)
        await untag(sql, append, call, { repository, id, tag, digest: found.digest, now: ctx.now() })
        await touchManifest(sql, found.manifestId)
        const manifest = { repository, repoId: id, id: found.manifestId, digest: found.digest }
        return {
          name: tag,
          digest: found.digest,
          ...releaseMessage(await releaseOfUntag(sql, ctx.retention, ctx.now(), manifest)),
        }
      })
    },
  }),
  operation(getManifest, {
    summary: 'a manifest: what it is, which tags name it, and its content',
    action: reads,
    rest: { method: 'GET', path: '/v1/repositories/:repository+/-/manifests/:reference' },
    cli: { words: 'manifest show', args: ['repository', 'reference'] },
    async run(input, _call, ctx) {
      const sql = ctx.metadata.read
      const repository = repositoryOf(input.repository)
      const id = await mustFindRepository(sql, repository)
      const manifest = await findManifest(sql, repository, parseReference(input.reference))
      const body = manifest && (await readManifestBody(sql, manifest.digest))
      if (!manifest || !body)
        throw ociError('MANIFEST_UNKNOWN', undefined, { message: `there is no manifest ${input.reference} in ${repository}` })
      const [row] = await sql.all<{ artifactType: string | null; subject: string | null; createdAt: number }>(
        `SELECT artifact_type AS artifactType, subject, created_at AS createdAt FROM manifests WHERE id = ?`,
        [manifest.id],
      )
      const { artifactType = null, subject = null, createdAt = 0 } = row ?? {}
      return {
        ...manifestMessage({
          digest: manifest.digest,
          mediaType: manifest.mediaType,
          size: manifest.size,
          artifactType,
          subject,
          createdAt,
        }),
        tags: await tagsOf(sql, id, manifest.id),
        content: new TextDecoder().decode(body),
      }
    },
  }),
  operation(deleteManifest, {
    summary: 'delete a manifest with every tag that names it',
    action: deletes,
    rest: { method: 'DELETE', path: '/v1/repositories/:repository+/-/manifests/:digest' },
    cli: { words: 'manifest delete', args: ['repository', 'digest'] },
    async run(input, call, ctx) {
      const repository = repositoryOf(input.repository)
      const digest = parseDigest(input.digest)
      return await change(ctx, call, async (sql, append) => {
        const id = await mustFindRepository(sql, repository)
        const manifest = await findManifest(sql, repository, { kind: 'digest', digest })
        if (!manifest)
          throw ociError('MANIFEST_UNKNOWN', undefined, { message: `there is no manifest ${digest} in ${repository}` })
        const tags = await tagsOf(sql, id, manifest.id)
        const released = await releasedBytes(sql, id, manifest.id)
        for (const tag of tags) await untag(sql, append, call, { repository, id, tag, digest, now: ctx.now() })
        await buryManifest(sql, manifest.id)
        append({ type: 'manifest_deleted', repository, digest, detail: { tags } })
        return { digest, tags, ...releaseMessage(await releaseOf(sql, ctx.retention, ctx.now(), released)) }
      })
    },
  }),
]

/** P5: takes one tag away inside a transaction, if the policy lets the caller, and writes its history. */
export async function untag(
  sql: Sql,
  append: Append,
  call: Pick<OperationCall, 'require'>,
  tag: { repository: RepositoryName; id: RepositoryId; tag: Tag; digest: Digest; now: number },
): Promise<void> {
  const { repository, digest } = tag
  await call.require('registry:delete', { repository, tag: tag.tag }, sql, `tag ${tag.tag} may not be deleted`)
  await removeTag(sql, tag.id, tag.tag)
  const eventId = append({ type: 'tag_deleted', repository, digest, tag: tag.tag })
  await addTagHistory(sql, { repositoryId: tag.id, tag: tag.tag, old: digest, eventId, now: tag.now })
}

const unknownTag = (tag: Tag) => ociError('NOT_FOUND', { tag }, { message: `there is no tag ${tag}` })
