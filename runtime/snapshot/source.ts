import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, readFile, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { pipeline } from 'node:stream/promises'
import { extract } from 'tar-stream'
import { algorithmOf } from '../../lib/oci/digest.ts'
import { hashFile } from '../blobs-fs-copy.ts'
import { readDatabaseCopy } from '../database-file.ts'
import { sha256Of, sizeOf } from './files.ts'
import { blobName, type Description, isSigned, type ListedFile, names, parseLine, type Signature } from './format.ts'
import { listSnapshots } from './prune.ts'

/** A snapshot that has been opened: its description is what its key signed, its database and list are what the description says. */
export interface SnapshotSource {
  description: Description
  signature: Signature
  databasePath: string
  /** the blobs of the registry, whole and damaged, in byte order */
  files(): AsyncIterable<ListedFile>
  /** the path of a blob's file */
  path(file: ListedFile): string
}

/** A backup that is not what it says. `what` is for people, one line each. */
export function damagedSnapshot(what: string[]): Error {
  return Object.assign(new Error(`the snapshot is damaged:\n  ${what.slice(0, 50).join('\n  ')}`), { damaged: what.length })
}

/**
 * Opens the newest snapshot of a directory, or the one of `id`, and proves what it needs no reading of blobs for. `signedBy` is the
 * fingerprint that its key must have; without it any key of its own registry is taken, which shows damage, not malice.
 * Errors: a plain Error that says what is wrong.
 */
export async function openSnapshot(root: string, options: { id?: string; signedBy?: string }): Promise<SnapshotSource> {
  const all = await listSnapshots(root)
  const id = options.id ?? all.at(-1)
  if (id === undefined) throw new Error(`${root} holds no whole snapshot`)
  if (!all.includes(id)) throw new Error(`${root} holds no snapshot ${id}: there are ${all.join(', ') || 'none'}`)
  const folder = join(root, 'snapshots', id)
  const bytes = await readFile(join(folder, names.description))
  const signature = JSON.parse(await readFile(join(folder, names.signature), 'utf8')) as Signature
  if (!(await isSigned(bytes, signature))) throw damagedSnapshot([`${id}: the signature is not of this description`])
  if (options.signedBy !== undefined && signature.fingerprint !== options.signedBy)
    throw new Error(`${id} is signed by ${signature.fingerprint}, not by ${options.signedBy}`)
  const description = JSON.parse(bytes.toString()) as Description
  if (description.format !== 1 || description.id !== id)
    throw new Error(`${id} is of a form that this version does not know: use the version that made it, or a newer one`)
  const databasePath = join(folder, names.database)
  const problems: string[] = []
  if (
    (await sizeOf(databasePath)) !== description.database.size ||
    (await sha256Of(databasePath)) !== description.database.sha256
  )
    problems.push(`${names.database} is not the one that was signed`)
  if ((await sha256Of(join(folder, names.list))) !== description.files.sha256)
    problems.push(`${names.list} is not the one that was signed`)
  if (problems.length > 0) throw damagedSnapshot(problems)
  await checkKey(databasePath, signature)
  return {
    description,
    signature,
    databasePath,
    async *files() {
      for await (const line of createInterface({ input: createReadStream(join(folder, names.list)) })) yield parseLine(line)
    },
    path: ({ digest, inc }) => join(root, 'blobs', blobName(digest, inc)),
  }
}

/** The key must be one of the registry whose database it signed. */
async function checkKey(databasePath: string, signature: Signature): Promise<void> {
  const copy = readDatabaseCopy(databasePath)
  try {
    const keys = await copy.read.all<{ jwk: string }>(`SELECT public_jwk AS jwk FROM journal_keys WHERE kid = ?`, [signature.kid])
    // A first snapshot may make the key after its database was copied.
    const [any] = await copy.read.all(`SELECT 1 AS one FROM journal_keys LIMIT 1`)
    if (any && !keys.some(({ jwk }) => (JSON.parse(jwk) as JsonWebKey).x === signature.public_key))
      throw new Error(`the snapshot is signed by a key that its own registry does not have: ${signature.fingerprint}`)
  } finally {
    copy.close()
  }
}

/**
 * Looks at every file of a snapshot: that it is there with its size and, where `deep`, that its bytes hash to its digest.
 * Errors: damaged, with every file that is not as it should be; a plain Error where a newer snapshot took this one away meanwhile.
 */
export async function verifySnapshot(
  source: SnapshotSource,
  options: { deep: boolean },
  tell: (files: number, bytes: number) => void,
): Promise<void> {
  const problems: string[] = []
  let files = 0
  let bytes = 0
  for await (const file of source.files()) {
    if (file.damaged) continue
    const path = source.path(file)
    if ((await sizeOf(path)) !== file.size) problems.push(`${path} is missing or has another size`)
    else if (options.deep && (await hashFile(path, algorithmOf(file.digest))) !== file.digest)
      problems.push(`${path} has other bytes: remove it, and the next snapshot brings it anew`)
    files++
    bytes += file.size
    tell(files, bytes)
  }
  if (files !== source.description.files.count || bytes !== source.description.files.bytes)
    problems.push(
      `the list has ${files} files of ${bytes} bytes, and the description says ${source.description.files.count} of ${source.description.files.bytes}`,
    )
  if (problems.length > 0 && (await sizeOf(source.databasePath)) === undefined)
    throw new Error(
      `the snapshot ${source.description.id} was taken away while it was looked at (mcr snapshot --keep): look at a newer one`,
    )
  if (problems.length > 0) throw damagedSnapshot(problems)
}

/** Writes a tar file's snapshot out as a directory. Only names that a snapshot has are written. Errors: a plain Error. */
export async function unpackTar(file: string, target: string): Promise<void> {
  const entries = extract()
  const reading = pipeline(createReadStream(resolve(file), { highWaterMark: 1 << 20 }), entries)
  reading.catch(() => {
    // Awaited at the end; a failure before that also ends the loop over the entries, which tells it.
  })
  for await (const entry of entries) {
    const { name, type } = entry.header
    if (type !== 'file' || !(blobShape.test(name) || snapshotShape.test(name)))
      throw new Error(`${file} is no snapshot: it has ${JSON.stringify(name.slice(0, 200))}`)
    const path = join(target, name)
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
    // Durable now: what is restored is a second name of it.
    await pipeline(entry, createWriteStream(path, { flags: 'wx', mode: 0o444, flush: true }))
  }
  await reading
}

const blobShape = /^blobs\/(sha256|sha512)\/[0-9a-f]{2}\/[0-9a-f]{64,128}\.[0-9A-Za-z_-]+$/
const snapshotShape = /^snapshots\/[0-9A-Za-z-]+\/(database\.db|files\.txt|snapshot\.json|snapshot\.sig)$/

/** Whether a path is a directory of snapshots, or a file with one. Errors: a plain Error where it is neither. */
export async function kindOfSource(path: string): Promise<'directory' | 'tar'> {
  try {
    const info = await stat(path)
    if (info.isDirectory()) return 'directory'
    if (info.isFile()) return 'tar'
  } catch (error) {
    // What cannot be looked at is neither, for whatever reason, which the error below keeps.
    throw new Error(`there is no snapshot at ${path}`, { cause: error })
  }
  throw new Error(`there is no snapshot at ${path}`)
}
