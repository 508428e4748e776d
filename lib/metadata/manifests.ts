import type { Digest } from '../oci/digest.ts'
import type { Manifest } from '../oci/manifest.ts'
import type { Reference, RepositoryName } from '../oci/names.ts'
import type { RepositoryId } from './repositories.ts'
import type { Row, Sql } from './sql.ts'

export type ManifestId = number & { readonly __brand: 'ManifestId' }

export interface StoredManifest {
  id: ManifestId
  repositoryId: RepositoryId
  digest: Digest
  mediaType: string
  size: number
  /** when it was last wanted, and the storage epoch at the look */
  ownEpoch: number
  epoch: number
}

const columns = `m.id, m.repo_id AS repositoryId, m.digest, m.media_type AS mediaType, m.size, m.epoch AS ownEpoch,
  (SELECT epoch FROM instance) AS epoch`

/** The live manifest that a tag or a digest names in this repository, or undefined. */
export async function findManifest(
  sql: Sql,
  repository: RepositoryName,
  reference: Reference,
): Promise<StoredManifest | undefined> {
  const rows =
    reference.kind === 'tag'
      ? await sql.all<StoredManifest>(
          `SELECT ${columns} FROM repositories r JOIN tags t ON t.repo_id = r.id JOIN manifests m ON m.id = t.manifest_id
           WHERE r.name = ? AND r.deleted_epoch IS NULL AND t.name = ?`,
          [repository, reference.tag],
        )
      : await sql.all<StoredManifest>(
          `SELECT ${columns} FROM repositories r JOIN manifests m ON m.repo_id = r.id
           WHERE r.name = ? AND r.deleted_epoch IS NULL AND m.digest = ? AND m.deleted_epoch IS NULL`,
          [repository, reference.digest],
        )
  return rows[0]
}

/** The exact bytes of a manifest. Never listed, never read for more than one at a time. */
export async function readManifestBody(sql: Sql, digest: Digest): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const rows = await sql.all<{ body: Uint8Array<ArrayBuffer> }>(`SELECT body FROM manifest_bodies WHERE digest = ?`, [digest])
  return rows[0]?.body
}

/**
 * Of the digests a manifest needs, those that are not there: neither a visible, healthy blob of this repository nor a live manifest of it
 * (children may be either: buildkit's cache indexes name blobs).
 */
export async function missingReferences(
  sql: Sql,
  repositoryId: RepositoryId,
  digests: readonly { digest: Digest; orManifest: boolean }[],
): Promise<Digest[]> {
  const missing: Digest[] = []
  for (const { digest, orManifest } of digests) {
    const blob = await sql.all(
      `SELECT 1 AS one FROM repo_blobs l JOIN blobs b ON b.digest = l.digest
       WHERE l.repo_id = ? AND l.digest = ? AND l.hidden_epoch IS NULL AND b.state = 0`,
      [repositoryId, digest],
    )
    if (blob.length > 0) continue
    if (orManifest) {
      const child = await sql.all(`SELECT 1 AS one FROM manifests WHERE repo_id = ? AND digest = ? AND deleted_epoch IS NULL`, [
        repositoryId,
        digest,
      ])
      if (child.length > 0) continue
    }
    missing.push(digest)
  }
  return missing
}

/**
 * T5, the storing half: the manifest's row, body and references. A manifest that is there, deleted or not, is live again and whole.
 * Shape: its id, and whether it is new here.
 */
export async function storeManifest(
  sql: Sql,
  repositoryId: RepositoryId,
  manifest: Manifest,
  digest: Digest,
  body: Uint8Array,
  now: number,
): Promise<{ id: ManifestId; created: boolean }> {
  // Bytes that rotted are put right by whoever brings the true ones.
  await sql.run(
    `INSERT INTO manifest_bodies(digest, body) VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET body = excluded.body WHERE body <> excluded.body`,
    [digest, body],
  )
  const existing = await sql.all<{ id: ManifestId; deleted: number | null }>(
    `SELECT id, deleted_epoch AS deleted FROM manifests WHERE repo_id = ? AND digest = ?`,
    [repositoryId, digest],
  )
  if (existing[0]) {
    await sql.run(`UPDATE manifests SET epoch = (SELECT epoch FROM instance), deleted_epoch = NULL WHERE id = ?`, [
      existing[0].id,
    ])
    return { id: existing[0].id, created: existing[0].deleted !== null }
  }
  const made = await sql.all<{ id: ManifestId }>(
    `INSERT INTO manifests(repo_id, digest, media_type, artifact_type, subject, annotations, size, created_at, epoch)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT epoch FROM instance)) RETURNING id`,
    [
      repositoryId,
      digest,
      manifest.mediaType,
      manifest.artifactType ?? null,
      manifest.subject?.digest ?? null,
      manifest.subject && manifest.annotations ? JSON.stringify(manifest.annotations) : null,
      body.byteLength,
      now,
    ],
  )
  const id = (made[0] as { id: ManifestId }).id
  const seen = new Set<string>()
  for (const { digest: target, kind } of manifest.references) {
    if (seen.has(`${kind} ${target}`)) continue
    seen.add(`${kind} ${target}`)
    await sql.run(`INSERT INTO refs(manifest_id, digest, kind) VALUES (?, ?, ?)`, [id, target, kind])
  }
  return { id, created: true }
}

/** T6: the manifest is gone for every reader; its references stay and protect until the undelete window has passed. */
export async function deleteManifest(sql: Sql, id: ManifestId): Promise<void> {
  await sql.run(
    `UPDATE manifests SET deleted_epoch = (SELECT epoch FROM instance), epoch = (SELECT epoch FROM instance) WHERE id = ?`,
    [id],
  )
}

/** T4 for manifests, and S9: what a user's action just released keeps its whole grace. */
export async function touchManifest(sql: Sql, id: ManifestId): Promise<void> {
  await sql.run(`UPDATE manifests SET epoch = (SELECT epoch FROM instance) WHERE id = ? AND deleted_epoch IS NULL`, [id])
}

export interface Referrer {
  id: ManifestId
  digest: Digest
  mediaType: string
  size: number
  artifactType: string | null
  annotations: string | null
}

/**
 * Live manifests of a repository whose subject is `subject`, newest first, older than `before`.
 * Shape: at most `limit`. `types` filters by artifact type, empty is all.  Source: end-12a, end-12b.
 */
export async function listReferrers(
  sql: Sql,
  repositoryId: RepositoryId,
  subject: Digest,
  types: readonly string[],
  limit: number,
  before: number,
): Promise<Referrer[]> {
  const filter = types.length > 0 ? `AND artifact_type IN (${types.map(() => '?').join(',')})` : ''
  return await sql.all<Referrer>(
    `SELECT id, digest, media_type AS mediaType, size, artifact_type AS artifactType, annotations FROM manifests
     WHERE repo_id = ? AND subject = ? AND deleted_epoch IS NULL AND id < ? ${filter} ORDER BY id DESC LIMIT ?`,
    [repositoryId, subject, before, ...types, limit],
  )
}

/** Whether rows of a table are there at all: for start-up and tests. */
export async function countManifests(sql: Sql): Promise<number> {
  const rows = await sql.all<Row>(`SELECT count(*) AS n FROM manifests`)
  return Number((rows[0] as Row).n)
}
