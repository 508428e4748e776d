import { createHash } from 'node:crypto'
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
