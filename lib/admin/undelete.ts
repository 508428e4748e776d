import { type Append, change } from '../journal/change.ts'
import { isMetadataError } from '../metadata/errors.ts'
import { findManifest, readManifestBody } from '../metadata/manifests.ts'
import type { RepositoryId } from '../metadata/repositories.ts'
import type { Sql } from '../metadata/sql.ts'
import { addTagHistory, setTag } from '../metadata/tags.ts'
import {
  type DeletedManifest,
  findDeletedManifest,
  findDeletedRepository,
  findTarget,
  lastOfTag,
  lostTags,
  restoreManifest,
  restoreRepository,
} from '../metadata/undelete.ts'
import { algorithmOf, type Digest, digestOf } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'
import { type Manifest, parseManifest } from '../oci/manifest.ts'
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
      const find = async (sql: Sql) => {
        const id = await mustFindRepository(sql, repository)
        const digest = reference.kind === 'digest' ? reference.digest : await lastOfTag(sql, id, reference.tag)
        if (digest === undefined)
          throw ociError('NOT_FOUND', undefined, { message: `${input.reference} was not deleted, or is there` })
        return { id, digest, manifest: await findDeletedManifest(sql, id, digest) }
      }
      // A transaction waits for no hash.
      const before = await find(ctx.metadata.read)
      const references = before.manifest && (await readReferences(ctx.metadata.read, before.id, before.manifest))
      return await change(ctx, call, async (sql, append) => {
        const { id, digest, manifest } = await find(sql)
        const needs: Needs = { references: references ?? new Map(), sparse: ctx.limits.sparse }
        const manifests = manifest ? await bringBack(sql, repository, id, manifest, append, needs) : []
        if (!manifest && !(await findManifest(sql, repository, { kind: 'digest', digest })))
          throw ociError('GONE', { digest }, { message: `${digest} has been collected` })
        if (reference.kind === 'digest' && !manifest)
          throw ociError('NOT_FOUND', undefined, {
            message: `${digest} was not deleted here, or garbage collection has taken it`,
          })
        const lost = await lostTags(sql, id, digest)
        const wanted = reference.kind === 'digest' ? lost : lost.filter(({ name }) => name === reference.tag)
        const free = wanted.filter(({ taken }) => !taken).map(({ name }) => name)
        if (reference.kind === 'tag' && free.length === 0)
          throw ociError('CONFLICT', undefined, { message: `the tag ${reference.tag} names something else now` })
        for (const tag of free) await retag(sql, append, call, { repository, id, tag, digest, now: ctx.now() })
        const taken = wanted.filter(({ taken }) => taken).map(({ name }) => name)
        return { repository, digest, tags: free, taken, manifests }
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

/** What comes back is judged by. */
interface Needs {
  /** What the manifest and the deleted ones below it refer to, by digest; undefined where the bytes are damaged. */
  references: ReadonlyMap<Digest, readonly Reference[] | undefined>
  sparse: 'deny' | 'allow'
}
type Reference = Manifest['references'][number]

/** It was stored once: limits that are lower now are no reason to lose it. */
const anySize = { jsonDepth: Infinity, jsonTokens: Infinity, layers: Infinity, children: Infinity }

async function readReferences(
  sql: Sql,
  repositoryId: RepositoryId,
  { digest, mediaType }: DeletedManifest,
  found = new Map<Digest, readonly Reference[] | undefined>(),
): Promise<Needs['references']> {
  const body = await readManifestBody(sql, digest)
  const isWhole = body !== undefined && (await digestOf(body, algorithmOf(digest))) === digest
  // A subject comes and goes by itself.
  const references = isWhole
    ? parseManifest(body, mediaType, anySize).references.filter(({ kind }) => kind !== 'subject')
    : undefined
  found.set(digest, references)
  for (const { digest: target, kind } of references ?? []) {
    const child = kind === 'child' && !found.has(target) ? await findDeletedManifest(sql, repositoryId, target) : undefined
    if (child) await readReferences(sql, repositoryId, child, found)
  }
  return found
}

/**
 * Makes a deleted manifest live again, with the deleted manifests that it names as children. Shape: their digests, its own last.
 * Errors: GONE where something that a push of it would ask for has been collected, CONFLICT where that is damaged.
 */
async function bringBack(
  sql: Sql,
  repository: RepositoryName,
  id: RepositoryId,
  manifest: DeletedManifest,
  append: Append,
  needs: Needs,
): Promise<Digest[]> {
  const { digest } = manifest
  const { manifests, missing, damaged } = await planReturn(sql, id, manifest, needs)
  if (missing.length > 0)
    throw ociError('GONE', { missing }, { message: `${digest} needs ${missing[0]}, which has been collected` })
  if (damaged.length > 0)
    throw ociError(
      'CONFLICT',
      { damaged },
      {
        message: `${damaged[0]} is damaged, and ${digest} cannot come back whole: push the damaged digest again, or mcr repair --from a registry that has it; then undelete once more`,
      },
    )
  for (const { id: manifestId, digest: back } of manifests) {
    await restoreManifest(sql, id, manifestId)
    append({ type: 'manifest_undeleted', repository, digest: back })
  }
  return [...manifests].map(({ digest: back }) => back)
}

/** What comes back with a manifest, itself last; and what stands against it. */
interface Return {
  manifests: Set<DeletedManifest>
  missing: Digest[]
  damaged: Digest[]
}

async function planReturn(
  sql: Sql,
  repositoryId: RepositoryId,
  manifest: DeletedManifest,
  needs: Needs,
  known = new Map<Digest, Return>(),
): Promise<Return> {
  const { digest } = manifest
  if (!needs.references.has(digest))
    throw ociError('CONFLICT', undefined, { message: `${digest} was deleted just now: undelete once more` })
  const plan: Return = { manifests: new Set(), missing: [], damaged: [] }
  known.set(digest, plan)
  const references = needs.references.get(digest)
  if (!references) plan.damaged.push(digest)
  for (const { digest: target, kind, required } of references ?? []) {
    const needed = required && needs.sparse === 'deny'
    const found = await findTarget(sql, repositoryId, target, kind === 'child')
    const child = found === 'deleted' ? await findDeletedManifest(sql, repositoryId, target) : undefined
    if (child) {
      const below = known.get(target) ?? (await planReturn(sql, repositoryId, child, needs, known))
      if (below.missing.length + below.damaged.length === 0) for (const one of below.manifests) plan.manifests.add(one)
      else if (needed) {
        plan.missing.push(...below.missing)
        plan.damaged.push(...below.damaged)
      }
    } else if (needed && found === 'missing') plan.missing.push(target)
    else if (needed && found === 'damaged') plan.damaged.push(target)
  }
  plan.manifests.add(manifest)
  return plan
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
