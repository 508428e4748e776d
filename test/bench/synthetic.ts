import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type FileDatabase, openDatabaseFile } from '../../runtime/database-file.ts'

const digestOf = (text: string) => `sha256:${createHash('sha256').update(text).digest('hex')}`

/** Opens the database of a stopped or running registry and writes rows that no pushes made. */
export async function withRows(dir: string, work: (database: FileDatabase) => Promise<void>): Promise<void> {
  const database = await openDatabaseFile(join(dir, 'mcr.db'), {
    onFatal: (error) => {
      throw error
    },
  })
  await work(database)
  await database.checkpoint()
  await database.close()
}

/** Many repositories with manifests each, as rows. */
export async function addRepositories(database: FileDatabase, count: number, manifestsEach: number): Promise<void> {
  const batch = 500
  for (let from = 0; from < count; from += batch)
    await database.write(async (sql) => {
      for (let index = from; index < Math.min(from + batch, count); index++) {
        const [row] = await sql.all<{ id: number }>(
          `INSERT INTO repositories(name, visible, created_at) VALUES (?, 1, 0) RETURNING id`,
          [`synthetic/r${String(index).padStart(7, '0')}`],
        )
        for (let manifest = 0; manifest < manifestsEach; manifest++)
          await sql.run(
            `INSERT INTO manifests(repo_id, digest, media_type, size, created_at, epoch) VALUES (?, ?, 'application/vnd.oci.image.manifest.v1+json', 2, 0, 1)`,
            [(row as { id: number }).id, digestOf(`${index} ${manifest}`)],
          )
      }
    })
}

/** Many tags of one repository, all at one manifest, as rows. */
export async function addTags(database: FileDatabase, repository: string, count: number): Promise<void> {
  const [row] = await database.read.all<{ repo: number; manifest: number }>(
    `SELECT r.id AS repo, m.id AS manifest FROM repositories r JOIN manifests m ON m.repo_id = r.id WHERE r.name = ? LIMIT 1`,
    [repository],
  )
  const { repo, manifest } = row as { repo: number; manifest: number }
  const batch = 10_000
  for (let from = 0; from < count; from += batch)
    await database.write(async (sql) => {
      for (let index = from; index < Math.min(from + batch, count); index++)
        await sql.run(`INSERT INTO tags(repo_id, name, manifest_id, updated_at) VALUES (?, ?, ?, 0)`, [
          repo,
          `t${String(index).padStart(8, '0')}`,
          manifest,
        ])
    })
}

/** Blobs that no repository has, as rows; the first `real` of them have files too, of `size` bytes. */
export async function addDeadBlobs(
  database: FileDatabase,
  count: number,
  { real, size, dir }: { real: number; size: number; dir: string },
): Promise<void> {
  const batch = 50_000
  for (let from = 0; from < count; from += batch)
    await database.write((sql) =>
      sql.run(
        `INSERT INTO blobs(digest, inc, size, epoch)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         SELECT 'sha256:' || lower(hex(randomblob(32))), lower(hex(randomblob(16))), ?, 1 FROM n`,
        [Math.min(batch, count - from), size],
      ),
    )
  const rows = await database.read.all<{ digest: string; inc: string }>(
    `SELECT digest, inc FROM blobs WHERE epoch = 1 ORDER BY inc LIMIT ?`,
    [real],
  )
  const bytes = Buffer.alloc(size, 'x')
  for (const { digest, inc } of rows) writeBlob(dir, digest, inc, bytes)
}

function writeBlob(dir: string, digest: string, inc: string, bytes: string | Buffer): void {
  const hex = digest.slice(7)
  const shard = join(dir, 'blobs/sha256', hex.slice(0, 2))
  mkdirSync(shard, { recursive: true, mode: 0o700 })
  writeFileSync(join(shard, `${hex}.${inc}`), bytes, { mode: 0o444 })
}

/** Images of a repository with `layers` blobs each that nothing else has, deleted in epoch 1. */
export async function addDeletedImages(
  database: FileDatabase,
  repository: string,
  { count, layers, size, dir }: { count: number; layers: number; size: number; dir: string },
): Promise<void> {
  await database.write(async (sql) => {
    const [row] = await sql.all<{ id: number }>(
      `INSERT INTO repositories(name, visible, created_at) VALUES (?, 1, 0) RETURNING id`,
      [repository],
    )
    const { id } = row as { id: number }
    for (let image = 0; image < count; image++) {
      const digest = digestOf(`${repository} ${image}`)
      const [made] = await sql.all<{ id: number }>(
        `INSERT INTO manifests(repo_id, digest, media_type, size, created_at, epoch, deleted_epoch)
         VALUES (?, ?, 'application/vnd.oci.image.manifest.v1+json', 2, 0, 1, 1) RETURNING id`,
        [id, digest],
      )
      await sql.run(`INSERT INTO manifest_bodies(digest, body) VALUES (?, ?)`, [digest, Buffer.from('{}')])
      for (let layer = 0; layer < layers; layer++) {
        const bytes = `${repository} ${image} ${layer}`.padEnd(size)
        const blob = digestOf(bytes)
        await sql.run(`INSERT INTO blobs(digest, inc, size, epoch) VALUES (?, ?, ?, 1)`, [blob, blob.slice(7, 39), size])
        writeBlob(dir, blob, blob.slice(7, 39), bytes)
        await sql.run(`INSERT INTO repo_blobs(repo_id, digest, epoch) VALUES (?, ?, 1)`, [id, blob])
        await sql.run(`INSERT INTO refs(manifest_id, digest, kind) VALUES (?, ?, 'layer')`, [made?.id ?? 0, blob])
      }
    }
  })
}
