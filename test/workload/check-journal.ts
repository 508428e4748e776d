import { DatabaseSync } from 'node:sqlite'
import type { Fleet } from './fleet.ts'
import type { Finding } from './push-blob.ts'

interface Entry {
  type: string
  repository: string
  digest: string
  tag: string | null
  detail: string | null
}

/**
 * The journal against its effects: told again from its first entry it must give the manifests and tags that stand, no more and no fewer;
 * and its chain must verify. Shape: how many entries there are, and what they say of garbage collection.
 */
export async function checkJournal(fleet: Fleet, finding: Finding) {
  let collected = { collections: 0, collectedBlobs: 0, collectedBytes: 0 }
  const db = new DatabaseSync(fleet.place.database, { readOnly: true, timeout: 5_000 })
  try {
    db.exec('BEGIN')
    collected = db
      .prepare(
        `SELECT count(*) AS collections, coalesce(sum(detail ->> 'blobs'), 0) AS collectedBlobs, coalesce(sum(detail ->> 'bytes'), 0) AS collectedBytes
         FROM journal WHERE type = 'gc_completed'`,
      )
      .get() as typeof collected
    const told = tell(db, finding)
    const stand = <T>(sql: string) => (db.prepare(sql).all() as { key: T }[]).map(({ key }) => key)
    const manifests = stand<string>(
      `SELECT r.name || '@' || m.digest AS key FROM manifests m JOIN repositories r ON r.id = m.repo_id WHERE m.deleted_epoch IS NULL AND r.deleted_epoch IS NULL`,
    )
    const tags = stand<string>(
      `SELECT r.name || ':' || t.name || ' ' || m.digest AS key FROM tags t JOIN repositories r ON r.id = t.repo_id JOIN manifests m ON m.id = t.manifest_id WHERE r.deleted_epoch IS NULL`,
    )
    compare('manifests', told.manifests, new Set(manifests), finding)
    compare('tags', new Set([...told.tags].map(([name, digest]) => `${name} ${digest}`)), new Set(tags), finding)
  } finally {
    db.close()
  }
  const verified = await fleet.command(['--json', 'audit', 'verify']).done
  const report = JSON.parse(verified.output.slice(verified.output.indexOf('{'))) as { ok: boolean; entries: number }
  if (!report.ok) finding(`the journal does not verify: ${verified.output}`)
  return { ...collected, entries: Number(report.entries) }
}

function tell(db: DatabaseSync, finding: Finding): { manifests: Set<string>; tags: Map<string, string> } {
  const manifests = new Set<string>()
  const tags = new Map<string, string>()
  const entries = db
    .prepare(
      `SELECT type, repository, digest, tag, detail FROM journal WHERE type IN ('manifest_pushed', 'manifest_deleted', 'tag_deleted') ORDER BY seq`,
    )
    .all() as unknown as Entry[]
  for (const { type, repository, digest, tag, detail } of entries) {
    const key = `${repository}@${digest}`
    if (type === 'manifest_pushed') {
      manifests.add(key)
      for (const name of (JSON.parse(detail ?? '{}') as { tags?: string[] }).tags ?? []) tags.set(`${repository}:${name}`, digest)
    } else if (type === 'manifest_deleted') {
      if (!manifests.delete(key)) finding(`the journal deletes ${key}, which it did not push`)
    } else if (!tags.delete(`${repository}:${tag}`)) finding(`the journal deletes ${repository}:${tag}, which it did not set`)
  }
  return { manifests, tags }
}

function compare(what: string, told: Set<string>, stand: Set<string>, finding: Finding): void {
  for (const key of told) if (!stand.has(key)) finding(`${what}: the journal has ${key}, the registry has not`)
  for (const key of stand) if (!told.has(key)) finding(`${what}: the registry has ${key}, the journal has not`)
}
