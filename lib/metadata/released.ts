import type { Retention } from '../jobs/retention.ts'
import type { Digest } from '../oci/digest.ts'
import { compileGlob } from '../policy/glob.ts'
import { judgeUntagged } from './garbage.ts'
import type { ManifestId } from './manifests.ts'
import type { RepositoryId } from './repositories.ts'
import type { Sql } from './sql.ts'

/**
 * What a delete answers of space, in bytes: nothing is free at once, because what was deleted can come back. `released` bytes are, at the
 * earliest, at `freeAfter` (ms since 1970), when the undelete window and the quarantine have passed; undefined where nothing goes.
 */
export interface Release {
  freedNow: number
  released: number
  freeAfter: number | undefined
}

/** Of manifests or a blob that were deleted. */
export async function releaseOf(sql: Sql, retention: Retention, now: number, released: number): Promise<Release> {
  const freeAfter = await afterEpochs(sql, retention, now, retention.windowAfter + retention.quarantineAfter)
  return { freedNow: 0, released, freeAfter }
}

/** Of a tag that was taken away: its manifest stays, unless a rule collects untagged ones and nothing else protects it. */
export async function releaseOfUntag(
  sql: Sql,
  retention: Retention,
  now: number,
  manifest: { repository: string; repoId: RepositoryId; id: ManifestId; digest: Digest },
): Promise<Release> {
  const { untagged } = retention
  const covered = untagged?.repositories.some((glob) => compileGlob(glob)(manifest.repository)) ?? false
  const horizon = { cold: 0, deleted: 0, untagged: Number.MAX_SAFE_INTEGER }
  if (!untagged || !covered || (await judgeUntagged(sql, manifest, horizon, '')).garbage === undefined)
    return { freedNow: 0, released: 0, freeAfter: undefined }
  const released = await releasedBytes(sql, manifest.repoId, manifest.id)
  return { freedNow: 0, released, freeAfter: await afterEpochs(sql, retention, now, untagged.after + retention.quarantineAfter) }
}

async function afterEpochs(sql: Sql, { epochMs }: Retention, now: number, epochs: number): Promise<number> {
  const [row] = await sql.all<{ elapsed: number }>(`SELECT epoch_elapsed_ms AS elapsed FROM instance`)
  return now + Math.max(0, epochs * epochMs - (epochs > 0 ? (row?.elapsed ?? 0) : 0))
}

/**
 * Bytes of blobs that nothing but these manifests of a repository needs (S8); each counted once. Only of those that the repository holds: it
 * frees no other, and a manifest may name foreign layers, whose presence elsewhere is nobody's business.
 */
export async function releasedBytes(sql: Sql, repositoryId: RepositoryId, manifestId: number | null): Promise<number> {
  const [row] = await sql.all<{ bytes: number }>(
    `SELECT coalesce(sum(b.size), 0) AS bytes FROM blobs b WHERE b.digest IN (
       SELECT f.digest FROM refs f JOIN manifests m ON m.id = f.manifest_id
       JOIN repo_blobs l ON l.repo_id = m.repo_id AND l.digest = f.digest
       WHERE m.repo_id = ? AND (? IS NULL OR m.id = ?) AND f.kind IN ('config', 'layer', 'child'))
     AND NOT EXISTS (
       SELECT 1 FROM refs o JOIN manifests n ON n.id = o.manifest_id JOIN repositories r ON r.id = n.repo_id
       WHERE o.digest = b.digest AND n.deleted_epoch IS NULL AND r.deleted_epoch IS NULL
       AND NOT (n.repo_id = ? AND (? IS NULL OR n.id = ?)))`,
    [repositoryId, manifestId, manifestId, repositoryId, manifestId, manifestId],
  )
  return row?.bytes ?? 0
}

/** Bytes of a blob that a repository does not hold any more: none while another one does, or a live manifest of any names it. */
export async function releasedBlobBytes(sql: Sql, repositoryId: RepositoryId, digest: Digest): Promise<number> {
  const [row] = await sql.all<{ bytes: number }>(
    `SELECT b.size AS bytes FROM blobs b WHERE b.digest = ?
     AND NOT EXISTS (
       SELECT 1 FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id
       WHERE l.digest = b.digest AND l.repo_id <> ? AND l.hidden_epoch IS NULL AND r.deleted_epoch IS NULL)
     AND NOT EXISTS (
       SELECT 1 FROM refs f JOIN manifests m ON m.id = f.manifest_id JOIN repositories r ON r.id = m.repo_id
       WHERE f.digest = b.digest AND m.deleted_epoch IS NULL AND r.deleted_epoch IS NULL)`,
    [digest, repositoryId],
  )
  return row?.bytes ?? 0
}
