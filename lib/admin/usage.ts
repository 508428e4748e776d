import type { Timestamp } from '@bufbuild/protobuf/wkt'
import type { Sql } from '../metadata/sql.ts'
import { storedBytes, turn, usageByRepository } from '../metadata/usage.ts'
import { parseDigest } from '../oci/digest.ts'
import { RegistryService } from './gen/mcr/v1/registry_pb.ts'
import { repositoryOf, stamp } from './input.ts'
import { type Operation, operation } from './operation.ts'
import { mustFindRepository } from './repositories.ts'

const { getUsage, explainDigest } = RegistryService.method

/** Where the space goes, and why it stays. */
export const usageOperations: readonly Operation[] = [
  operation(getUsage, {
    summary: 'bytes by repository, or by tag of one: all that it needs, and what nothing else needs',
    action: 'system:read',
    rest: { method: 'GET', path: '/v1/usage' },
    cli: { words: 'du', args: ['repository'], columns: ['name', 'size', 'unique', 'shared'] },
    async run(input, _call, ctx) {
      const sql = ctx.metadata.read
      const rows =
        input.repository === ''
          ? await usageByRepository(sql)
          : await sql.all<{ name: string; size: number; own: number }>(tagUsage, [
              await mustFindRepository(sql, repositoryOf(input.repository)),
            ])
      return {
        usage: rows.map(({ name, size, own }) => ({ name, size: BigInt(size), unique: BigInt(own), shared: BigInt(size - own) })),
        stored: BigInt(await storedBytes(sql)),
      }
    },
  }),
  operation(explainDigest, {
    summary: 'what keeps a blob or manifest, since when nothing does, or who removed it',
    action: 'system:read',
    rest: { method: 'GET', path: '/v1/digests/:digest' },
    cli: { words: 'why', args: ['digest'] },
    async run(input, _call, ctx) {
      const sql = ctx.metadata.read
      const digest = parseDigest(input.digest)
      const [blob] = await sql.all<{ size: number; state: number }>(`SELECT size, state FROM blobs WHERE digest = ?`, [digest])
      const [manifest] = await sql.all<{ size: number }>(`SELECT size FROM manifests WHERE digest = ? LIMIT 1`, [digest])
      const keepers = await sql.all<{ repository: string; kind: string; by: string; state: string }>(keepersOf, [
        digest,
        digest,
        digest,
      ])
      const events = await sql.all<{ at: number; type: string; repository: string | null; actor: string | null }>(
        `SELECT j.at, j.type, j.repository, coalesce(a.name, j.actor) AS actor FROM journal j LEFT JOIN accounts a ON a.subject = j.actor
         WHERE j.digest = ? AND j.type <> 'manifest_pulled' ORDER BY j.seq DESC LIMIT 20`,
        [digest],
      )
      const there = blob ? (blob.state === 0 ? 'stored' : 'damaged') : manifest ? 'stored' : undefined
      return {
        digest,
        state: there ?? (events.length > 0 ? 'collected' : 'unknown'),
        size: BigInt(blob?.size ?? manifest?.size ?? 0),
        keepers,
        ...(await freedSince(sql, digest, there !== undefined, keepers)),
        history: events.map(
          ({ at, type, repository, actor }) =>
            `${new Date(at).toISOString()} ${type} ${repository ?? ''} by ${actor ?? 'somebody'}`,
        ),
      }
    },
  }),
]

/** Since when nothing that lives needs it, and who ended that: a delete, an upload that no manifest followed, or the run that collected it. */
async function freedSince(
  sql: Sql,
  digest: string,
  stored: boolean,
  keepers: readonly { kind: string; by: string; state: string }[],
): Promise<{ freeSince?: Timestamp; freedBy?: string }> {
  if (keepers.some(({ state }) => state === '')) return {}
  const needed = keepers.filter(({ kind }) => kind === 'manifest').map(({ by }) => by)
  // `+`: by the digest, never by what all of the journal has.
  const row = stored
    ? (
        await sql.all<Freed>(
          `SELECT j.seq, j.at, coalesce(a.name, j.actor) AS by FROM journal j LEFT JOIN accounts a ON a.subject = j.actor
           WHERE j.digest IN (SELECT value FROM json_each(?)) AND j.type <> 'manifest_pulled'
           AND +j.type IN ('manifest_deleted', 'manifest_collected', 'blob_deleted', 'blob_uploaded', 'blob_mounted')
           ORDER BY +j.seq DESC LIMIT 1`,
          [JSON.stringify([digest, ...needed])],
        )
      )[0]
    : await collectedBy(sql, digest)
  return row ? { freeSince: stamp(row.at), freedBy: row.by ?? '' } : {}
}

interface Freed {
  seq: number
  at: number
  by: string | null
}

/** Entries of collected blobs that one statement looks through: each holds hundreds of digests. */
const looked = 200

/** The run that collected a digest last. Blobs are journaled by the hundred: their digests stand in the entry's detail. */
async function collectedBy(sql: Sql, digest: string): Promise<Freed | undefined> {
  const run = `actor || ', run ' || (detail ->> 'gc_id') AS by`
  const [manifest] = await sql.all<Freed>(
    `SELECT seq, at, ${run} FROM journal WHERE digest = ? AND type <> 'manifest_pulled' AND +type = 'manifest_collected'
     ORDER BY seq DESC LIMIT 1`,
    [digest],
  )
  for (let before = Number.MAX_SAFE_INTEGER; ; await turn()) {
    const page = await sql.all<Freed & { hit: number }>(
      `SELECT seq, at, ${run}, coalesce(instr(detail, ?), 0) > 0 AS hit FROM journal
       WHERE type = 'blobs_collected' AND seq < ? AND seq > ? ORDER BY seq DESC LIMIT ${looked}`,
      [digest, before, manifest?.seq ?? 0],
    )
    const blob = page.find(({ hit }) => hit !== 0)
    const last = page.at(-1)
    if (blob || !last) return blob ?? manifest
    before = last.seq
  }
}

/**
 * Blobs below each tag: of its manifest, and of the manifests its index names. A tag has for itself what no other tag, no live manifest of the
 * repository that is not below it, and no other repository has.
 */
const tagUsage = `
  WITH below AS MATERIALIZED (
    SELECT t.name, m.id, t.repo_id FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE t.repo_id = ?1
    UNION SELECT b.name, c.id, b.repo_id FROM below b JOIN refs f ON f.manifest_id = b.id AND f.kind = 'child'
      JOIN manifests c ON c.repo_id = b.repo_id AND c.digest = f.digest AND c.deleted_epoch IS NULL),
  needs AS (SELECT DISTINCT b.name, f.digest FROM below b JOIN refs f ON f.manifest_id = b.id WHERE f.kind <> 'subject')
  SELECT n.name, sum(s.size) AS size, sum(iif(n.tags = 1
    AND NOT EXISTS (
      SELECT 1 FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id
      WHERE l.digest = n.digest AND l.repo_id <> ?1 AND l.hidden_epoch IS NULL AND r.deleted_epoch IS NULL)
    AND NOT EXISTS (
      SELECT 1 FROM refs f JOIN manifests m ON m.id = f.manifest_id
      WHERE f.digest = n.digest AND f.kind <> 'subject' AND m.repo_id = ?1 AND m.deleted_epoch IS NULL
      AND NOT EXISTS (SELECT 1 FROM below b WHERE b.id = m.id AND b.name = n.name)), s.size, 0)) AS own
  FROM (SELECT name, digest, count(*) OVER (PARTITION BY digest) AS tags FROM needs) n JOIN blobs s ON s.digest = n.digest
  GROUP BY n.name ORDER BY own DESC, n.name LIMIT 1000`

const keepersOf = `
  SELECT r.name AS repository, 'link' AS kind, '' AS by,
    CASE WHEN r.deleted_epoch IS NOT NULL THEN 'repository deleted' WHEN l.hidden_epoch IS NOT NULL THEN 'hidden'
      WHEN EXISTS (SELECT 1 FROM refs f JOIN manifests m ON m.id = f.manifest_id WHERE f.digest = l.digest AND m.repo_id = l.repo_id) THEN ''
      ELSE 'unreferenced' END AS state
  FROM repo_blobs l JOIN repositories r ON r.id = l.repo_id WHERE l.digest = ?
  UNION ALL
  SELECT r.name, 'manifest', m.digest, CASE WHEN m.deleted_epoch IS NULL THEN '' ELSE 'deleted' END
  FROM refs f JOIN manifests m ON m.id = f.manifest_id JOIN repositories r ON r.id = m.repo_id WHERE f.digest = ?
  UNION ALL
  SELECT r.name, 'tag', t.name, '' FROM manifests m JOIN tags t ON t.manifest_id = m.id JOIN repositories r ON r.id = m.repo_id WHERE m.digest = ?
  LIMIT 1000`
