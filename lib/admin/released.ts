import type { Retention } from '../jobs/retention.ts'
import { judgeUntagged } from '../metadata/garbage.ts'
import type { ManifestId } from '../metadata/manifests.ts'
import { type RepositoryId, releasedBytes } from '../metadata/repositories.ts'
import type { Sql } from '../metadata/sql.ts'
import type { Digest } from '../oci/digest.ts'
import { compileGlob } from '../policy/glob.ts'
import { stamp } from './input.ts'

/**
 * What a delete answers of space: nothing is free at once, because what was deleted can come back; `released` bytes are when the undelete
 * window and the quarantine have passed, at the earliest then.
 */
export async function releaseOf(sql: Sql, retention: Retention, now: number, released: number) {
  return {
    freedNow: 0n,
    released: BigInt(released),
    freeAfter: stamp(await afterEpochs(sql, retention, now, retention.windowAfter + retention.quarantineAfter)),
  }
}

/** The same of a tag that was taken away: its manifest stays, unless a rule collects untagged ones and nothing else protects it. */
export async function releaseOfUntag(
  sql: Sql,
  retention: Retention,
  now: number,
  manifest: { repository: string; repoId: RepositoryId; id: ManifestId; digest: Digest },
) {
  const { untagged } = retention
  const covered = untagged?.repositories.some((glob) => compileGlob(glob)(manifest.repository)) ?? false
  const horizon = { cold: 0, deleted: 0, untagged: Number.MAX_SAFE_INTEGER }
  if (!untagged || !covered || (await judgeUntagged(sql, manifest, horizon, '')).garbage === undefined)
    return { freedNow: 0n, released: 0n, freeAfter: undefined }
  return {
    freedNow: 0n,
    released: BigInt(await releasedBytes(sql, manifest.repoId, manifest.id)),
    freeAfter: stamp(await afterEpochs(sql, retention, now, untagged.after + retention.quarantineAfter)),
  }
}

async function afterEpochs(sql: Sql, { epochMs }: Retention, now: number, epochs: number): Promise<number> {
  const [row] = await sql.all<{ elapsed: number }>(`SELECT epoch_elapsed_ms AS elapsed FROM instance`)
  return now + Math.max(0, epochs * epochMs - (epochs > 0 ? (row?.elapsed ?? 0) : 0))
}
