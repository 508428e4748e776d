import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { hex } from '../../lib/auth/secrets.ts'
import { algorithmOf, type Digest, encodedOf, parseDigest } from '../../lib/oci/digest.ts'

/**
 * A snapshot in a directory: `blobs/` as the registry has them, shared by all snapshots there, and for each of them `snapshots/<id>/` with
 * the database, the list of its files, and a description that names the hashes of both and is signed. In a tar file: the same, of one.
 */
export const names = {
  database: 'database.db',
  list: 'files.txt',
  description: 'snapshot.json',
  signature: 'snapshot.sig',
} as const

export interface Description {
  format: 1
  id: string
  instance: string
  version: string
  /** ms since 1970 */
  made_at: number
  journal: { seq: number; hash: string }
  database: { size: number; sha256: string }
  /** of the list; `damaged` are named in it and not here */
  files: { count: number; bytes: number; damaged: number; sha256: string }
}

export interface Signature {
  kid: string
  /** what names the key to people: the SHA-256 of its 32 bytes */
  fingerprint: string
  public_key: string
  signature: string
}

/** One line of the list: a blob of the database, and whether its file was damaged and so is not here. */
export interface ListedFile {
  digest: Digest
  inc: string
  size: number
  damaged: boolean
}

/** A name for a new snapshot: sorts by time. */
export const snapshotId = (now: number, random: string) =>
  `${new Date(now).toISOString().replace(/[:.]/g, '-')}-${random.replaceAll('-', '').slice(0, 8)}`
export const isSnapshotId = (name: string) => /^\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{3}Z-[0-9a-f]{8}$/.test(name)

/** Where a blob's file is, from the snapshot's directory, and in the registry's directory of blobs. */
export const blobName = (digest: Digest, inc: string) =>
  join(algorithmOf(digest), encodedOf(digest).slice(0, 2), `${encodedOf(digest)}.${inc}`)

export const formatLine = ({ digest, inc, size, damaged }: ListedFile) => `${digest} ${inc} ${size}${damaged ? ' damaged' : ''}\n`

/** Errors: a plain Error for a line that is none. */
export function parseLine(line: string): ListedFile {
  const [digest = '', inc = '', size = '', mark, more] = line.split(' ')
  if (
    !/^[0-9A-Za-z_-]+$/.test(inc) ||
    !/^\d{1,15}$/.test(size) ||
    (mark !== undefined && mark !== 'damaged') ||
    more !== undefined
  )
    throw new Error(`the list of files has a line that is none: ${JSON.stringify(line.slice(0, 200))}`)
  return { digest: parseDigest(digest), inc, size: Number(size), damaged: mark === 'damaged' }
}

const algorithm = { name: 'Ed25519' }
const signedBytes = (description: Uint8Array): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Buffer.concat([Buffer.from('mcr snapshot\n'), description]))

/** Signs the bytes of a description. `publicJwk` is of the key that signs. */
export async function sign(description: Uint8Array, kid: string, key: CryptoKey, publicJwk: JsonWebKey): Promise<Signature> {
  const signature = new Uint8Array(await crypto.subtle.sign(algorithm, key, signedBytes(description)))
  const publicKey = publicJwk.x ?? ''
  return { kid, fingerprint: fingerprintOf(publicKey), public_key: publicKey, signature: hex(signature) }
}

/** Whether the bytes are what the key that is named here has signed. Whose key that is, is another question. */
export async function isSigned(description: Uint8Array, { public_key, fingerprint, signature }: Signature): Promise<boolean> {
  if (fingerprintOf(public_key) !== fingerprint) return false
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: public_key }
  const key = await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['verify'])
  return await crypto.subtle.verify(algorithm, key, new Uint8Array(Buffer.from(signature, 'hex')), signedBytes(description))
}

const fingerprintOf = (publicKey: string) => createHash('sha256').update(Buffer.from(publicKey, 'base64url')).digest('hex')
