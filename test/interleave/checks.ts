import type { Corner } from './actors.ts'
import { sha256, type World } from './world.ts'

/** What must hold over all rows and files at every moment (docs/proof.md). Shape: what does not. */
export async function brokenInvariants(world: World): Promise<string[]> {
  const sql = world.ctx.metadata.read
  const wrong: string[] = []
  const files = new Set(world.files())
  const fileOf = (digest: string, inc: string) => {
    const [algorithm = '', hex = ''] = digest.split(':')
    return `blobs/${algorithm}/${hex.slice(0, 2)}/${hex}.${inc}`
  }
  for (const { digest, inc, size } of await sql.all<{ digest: string; inc: string; size: number }>(
    'SELECT digest, inc, size FROM blobs WHERE state = 0',
  )) {
    const path = fileOf(digest, inc)
    if (!files.has(path)) wrong.push(`row without a file: ${path}`)
    else if (world.read(path).length !== size || sha256(world.read(path)) !== digest)
      wrong.push(`a file that is not its digest: ${path}`)
  }
  const queries: [what: string, text: string][] = [
    [
      'a manifest needs a link that is not there',
      `SELECT m.digest AS id FROM manifests m JOIN refs f ON f.manifest_id = m.id AND f.kind IN ('config', 'layer')
       WHERE NOT EXISTS (SELECT 1 FROM repo_blobs l JOIN blobs b ON b.digest = l.digest WHERE l.repo_id = m.repo_id AND l.digest = f.digest)`,
    ],
    [
      'a live manifest needs a link that is hidden',
      `SELECT m.digest AS id FROM manifests m JOIN refs f ON f.manifest_id = m.id AND f.kind IN ('config', 'layer')
       JOIN repo_blobs l ON l.repo_id = m.repo_id AND l.digest = f.digest WHERE m.deleted_epoch IS NULL AND l.hidden_epoch IS NOT NULL`,
    ],
    [
      'a link without a blob',
      'SELECT l.digest AS id FROM repo_blobs l WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = l.digest)',
    ],
    [
      'a live incarnation in the trash',
      'SELECT t.inc AS id FROM trash t WHERE t.inc IN (SELECT inc FROM blobs) OR t.inc IN (SELECT inc FROM uploads)',
    ],
    [
      'a tag of a manifest that is not live',
      'SELECT t.name AS id FROM tags t LEFT JOIN manifests m ON m.id = t.manifest_id WHERE m.id IS NULL OR m.deleted_epoch IS NOT NULL',
    ],
    [
      'an upload whose size is not that of its segments',
      'SELECT u.inc AS id FROM uploads u WHERE u.size <> (SELECT coalesce(sum(s.size), 0) FROM upload_segments s WHERE s.inc = u.inc)',
    ],
  ]
  for (const [what, text] of queries) for (const { id } of await sql.all<{ id: string }>(text)) wrong.push(`${what}: ${id}`)
  return wrong
}

/** What was answered last must be so. */
export async function brokenPromises(world: World, corner: Corner): Promise<string[]> {
  const wrong: string[] = []
  for (const repository of [corner.repository, corner.other]) {
    const last = corner.answered.filter((answer) => answer.repository === repository).at(-1)
    if (!last) continue
    const manifest = await world.ask(world.ctx, 'GET', `/v2/${repository}/manifests/${corner.manifestDigest}`)
    if (last.is === 'deleted') {
      if (manifest.status !== 404) wrong.push(`${repository}: deleted, and answered ${manifest.status}`)
      continue
    }
    if (manifest.body.toString() !== corner.manifest) wrong.push(`${repository}: the manifest is lost: ${manifest.status}`)
    const tag = await world.ask(world.ctx, 'HEAD', `/v2/${repository}/manifests/v1`)
    if (tag.status !== 200) wrong.push(`${repository}: the tag is lost: ${tag.status}`)
    const blob = await world.ask(world.ctx, 'GET', `/v2/${repository}/blobs/${corner.digest}`)
    if (blob.body.toString() !== corner.content) wrong.push(`${repository}: the blob is lost: ${blob.status}`)
  }
  return wrong
}

/** Deletes everything, collects, reaps, sweeps. Shape: what is left of it. */
export async function leftovers(world: World, corner: Corner): Promise<string[]> {
  const { ctx } = world
  for (const repository of [corner.repository, corner.other]) await world.ask(ctx, 'DELETE', `/v1/repositories/${repository}`)
  await world.expire(ctx)
  await world.pass(10)
  await world.collect(ctx)
  await world.pass(2)
  await world.reap(ctx)
  await world.sweep(ctx)
  const left = world.files().map((path) => `file ${path}`)
  for (const table of ['blobs', 'repo_blobs', 'manifests', 'manifest_bodies', 'refs', 'uploads', 'upload_segments', 'trash'])
    for (const row of await ctx.metadata.read.all(`SELECT * FROM ${table}`)) left.push(`row of ${table} ${JSON.stringify(row)}`)
  return left
}
