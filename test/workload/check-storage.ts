import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { Place } from './fleet.ts'
import type { Finding } from './push-blob.ts'

export interface StorageReport {
  manifests: number
  links: number
  blobs: number
  bytes: number
  uploads: number
  /** Bytes of files that no row names. */
  leaked: number
  leakedFiles: string[]
}

/**
 * Looks at database and disk themselves, past the registry: reference → link → row → file of the right size and hash; segments as their
 * rows say; nothing both dead and alive; sums that are the sums; a whole database. `hashed` remembers files whose bytes were read: they
 * never change, but a power cut may take them. The caller sees to it that nothing changes meanwhile.
 */
export function checkStorage({ root, database }: Place, finding: Finding, hashed = new Set<string>()): StorageReport {
  const db = new DatabaseSync(database, { readOnly: true, timeout: 5_000 })
  try {
    db.exec('BEGIN')
    const rows = <T>(sql: string) => db.prepare(sql).all() as T[]
    for (const { quick_check: text } of rows<{ quick_check: string }>('PRAGMA quick_check'))
      if (text !== 'ok') finding(`quick_check: ${text}`)
    for (const row of rows('PRAGMA foreign_key_check')) finding(`foreign_key_check: ${JSON.stringify(row)}`)
    for (const [what, sql] of rules) for (const row of rows(sql)) finding(`${what}: ${JSON.stringify(row)}`)

    const named = new Set<string>()
    const blobs = rows<{ digest: string; inc: string; size: number; state: number }>('SELECT digest, inc, size, state FROM blobs')
    for (const { digest, inc, size, state } of blobs) {
      const [algorithm = '', hex = ''] = digest.split(':')
      const path = join(root, 'blobs', algorithm, hex.slice(0, 2), `${hex}.${inc}`)
      named.add(path)
      if (state !== 0) finding(`${digest}.${inc} is marked as damaged`)
      checkFile(path, size, digest, hashed, finding)
    }
    const segments = rows<{ part: string; size: number; sha256: string; seq: number }>(
      'SELECT part, size, sha256, seq FROM upload_segments',
    )
    const files = filesUnder(root)
    for (const { part, size, sha256, seq } of segments) {
      const path = join(root, 'uploads', part)
      // A finisher that died between rename and row left its only segment under its final name. The next one takes it from there; where
      // another piece came first, it ends the upload, which is to be pushed again.
      const isMoved = seq === 0 && !existsSync(path)
      const final = isMoved && files.find((file) => file.includes('/blobs/') && file.endsWith(`.${part.split('.')[0]}`))
      checkFile(final || path, size, sha256, hashed, finding)
    }
    const uploads = new Set(rows<{ inc: string }>('SELECT inc FROM uploads').map(({ inc }) => inc))
    const leakedFiles = files.filter((path) => !named.has(path) && !uploads.has(incarnationOf(path)))
    const count = (sql: string) => rows<{ n: number }>(sql)[0]?.n ?? 0
    return {
      manifests: count('SELECT count(*) AS n FROM manifests WHERE deleted_epoch IS NULL'),
      links: count('SELECT count(*) AS n FROM repo_blobs'),
      blobs: blobs.length,
      bytes: blobs.reduce((sum, { size }) => sum + size, 0),
      uploads: uploads.size,
      leaked: leakedFiles.reduce((sum, path) => sum + statSync(path).size, 0),
      leakedFiles,
    }
  } finally {
    db.close()
  }
}

/** Each names rows that must not be there. */
const rules: [what: string, sql: string][] = [
  [
    'an image without one of its blobs in its repository',
    `SELECT m.repo_id, m.digest, f.kind, f.digest AS missing FROM manifests m JOIN refs f ON f.manifest_id = m.id AND f.kind IN ('config', 'layer')
     WHERE NOT EXISTS (SELECT 1 FROM repo_blobs l WHERE l.repo_id = m.repo_id AND l.digest = f.digest AND (l.hidden_epoch IS NULL OR m.deleted_epoch IS NOT NULL))`,
  ],
  ['a link without a blob', 'SELECT * FROM repo_blobs l WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = l.digest)'],
  [
    'a manifest without its bytes',
    'SELECT repo_id, digest FROM manifests m WHERE NOT EXISTS (SELECT 1 FROM manifest_bodies b WHERE b.digest = m.digest)',
  ],
  [
    'bytes of no manifest',
    'SELECT digest FROM manifest_bodies b WHERE NOT EXISTS (SELECT 1 FROM manifests m WHERE b.digest = m.digest)',
  ],
  [
    'a tag on a deleted manifest',
    'SELECT t.repo_id, t.name FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE m.deleted_epoch IS NOT NULL OR m.repo_id <> t.repo_id',
  ],
  ['alive and in the trash', 'SELECT inc FROM trash WHERE inc IN (SELECT inc FROM blobs) OR inc IN (SELECT inc FROM uploads)'],
  ['an upload that is a blob', 'SELECT inc FROM uploads WHERE inc IN (SELECT inc FROM blobs)'],
  [
    'an upload of another size than its segments',
    `SELECT inc, size FROM uploads u WHERE size <> (SELECT coalesce(sum(s.size), 0) FROM upload_segments s WHERE s.inc = u.inc)
       OR segments <> (SELECT count(*) FROM upload_segments s WHERE s.inc = u.inc)`,
  ],
  [
    'a repository whose bytes are counted wrongly',
    `SELECT name, logical_bytes FROM repositories r WHERE logical_bytes <> (SELECT coalesce(sum(b.size), 0) FROM repo_blobs l
       JOIN blobs b ON b.digest = l.digest WHERE l.repo_id = r.id AND l.hidden_epoch IS NULL)`,
  ],
]

function checkFile(path: string, size: number, digest: string, hashed: Set<string>, finding: Finding): void {
  try {
    const info = statSync(path)
    if (info.size === size && hashed.has(path)) return
    const [algorithm = '', hex] = digest.split(':')
    if (info.size !== size) finding(`${path} has ${info.size} bytes, its row says ${size}`)
    else if (createHash(algorithm).update(readFileSync(path)).digest('hex') !== hex)
      finding(`${path} has other bytes than its row says`)
    else hashed.add(path)
  } catch (error) {
    finding(`${path} is named by a row: ${(error as Error).message}`)
  }
}

/** Files that carry an incarnation, of blobs and of segments. */
function filesUnder(root: string): string[] {
  return ['blobs', 'uploads'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name.indexOf('.') > 0)
      .map((entry) => join(entry.parentPath, entry.name)),
  )
}

/** `<hex>.<incarnation>` or `<incarnation>.<random>`. */
function incarnationOf(path: string): string {
  const [first = '', second = ''] = (path.split('/').at(-1) ?? '').split('.')
  return path.includes('/uploads/') ? first : second
}
