import type { ManifestRow, TargetRow } from '../metadata/integrity.ts'
import { manifestsAfter, targetsOf, wasDeleted } from '../metadata/integrity.ts'
import { readManifestBody } from '../metadata/manifests.ts'
import type { Sql } from '../metadata/sql.ts'
import { algorithmOf, digestOf } from '../oci/digest.ts'
import { isOciError } from '../oci/errors.ts'
import { type Manifest, type ManifestLimits, parseManifest } from '../oci/manifest.ts'
import type { Finding } from './finding.ts'

/** Looks at every manifest: its bytes, and what they need. Yields findings of one manifest at a time; one without is an empty list. */
export async function* verifyManifests(
  sql: Sql,
  limits: ManifestLimits & { sparse: 'deny' | 'allow' },
): AsyncGenerator<Finding[]> {
  for (let after = 0; ; ) {
    const rows = await manifestsAfter(sql, after)
    for (const row of rows) yield await verifyManifest(sql, row, limits)
    const last = rows.at(-1)
    if (!last) return
    after = last.id
  }
}

async function verifyManifest(
  sql: Sql,
  row: ManifestRow,
  limits: ManifestLimits & { sparse: 'deny' | 'allow' },
): Promise<Finding[]> {
  const found: Finding[] = []
  const add = (what: Finding['what'], subject = '', severity: Finding['severity'] = 'damage') =>
    found.push({ severity, what, digest: row.digest, repositories: [row.repository], subject })
  const body = await readManifestBody(sql, row.digest)
  const targets = await targetsOf(sql, row)
  // Deleted, brought back or collected while it was looked at: it is another one's business.
  if (!targets) return []
  if (!body) add('body_missing')
  else if ((await digestOf(body, algorithmOf(row.digest))) !== row.digest || body.byteLength !== row.size) add('body_bytes')
  const manifest = body && found.length === 0 ? parsed(body, row, limits) : undefined
  if (manifest) {
    const said = new Set(manifest.references.map(({ kind, digest }) => `${kind} ${digest}`))
    const kept = new Set(targets.map(({ kind, digest }) => `${kind} ${digest}`))
    for (const one of said) if (!kept.has(one)) add('references_differ', `${one} has no row`)
    for (const one of kept) if (!said.has(one)) add('references_differ', `${one} is not in the manifest`)
  }
  for (const target of targets) {
    if (isThere(target, row.deleted !== null)) continue
    const required =
      limits.sparse === 'deny' &&
      manifest?.references.some(({ digest, kind, required }) => required && digest === target.digest && kind === target.kind)
    // A child may be deleted by whoever wants that, as elsewhere; nobody can delete a blob that a manifest names.
    const deleted = target.kind === 'child' && (target.manifest !== 0 || (await wasDeleted(sql, row.repository, target.digest)))
    if (required && !deleted) add('reference_missing', `${target.kind} ${target.digest}`)
    else add('reference_absent', `${target.kind} ${target.digest}`, 'absent')
  }
  return found
}

/** A live manifest needs what readers can see; a deleted one keeps what it would come back with. */
function isThere({ linked, visible, manifest, live, kind }: TargetRow, deleted: boolean): boolean {
  const blob = deleted ? linked : visible
  const other = deleted ? manifest : live
  return blob !== 0 || ((kind === 'child' || kind === 'subject') && other !== 0)
}

function parsed(body: Uint8Array, row: ManifestRow, limits: ManifestLimits): Manifest | undefined {
  try {
    return parseManifest(body, row.mediaType, limits)
  } catch (error) {
    // Stored when limits were other ones: its bytes are right, and that is what counts.
    if (isOciError(error)) return undefined
    throw error
  }
}
