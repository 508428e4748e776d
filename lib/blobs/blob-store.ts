import type { Algorithm, Digest } from '../oci/digest.ts'

/** One immutable file with a part of an upload. `part` is opaque to everybody but the store that made it. */
export interface Segment {
  part: string
  /** bytes */
  size: number
  /** The segment's own digest, canonical text. */
  sha256: Digest
}

/** An incarnation that nothing names: of a blob, or of an upload alone. */
export interface Dead {
  incarnation: string
  digest?: Digest | null
}

/** What removing did. `shared` are bytes that another name of the file keeps, `bytes` those that are free now. */
export interface Removed {
  files: number
  bytes: number
  shared: number
  /** incarnations that could not be removed, with the reason */
  failed: { incarnation: string; reason: string }[]
}

/** A file as the store finds it: of a finished blob (`digest`), or a segment of an upload (`part`). */
export interface StoredFile {
  incarnation: string
  digest?: Digest
  part?: string
}

/** What a look at a stored file finds: whole, not there, of another size, of other bytes, or a disk that cannot read it. */
export type FileState = 'whole' | 'missing' | 'size' | 'bytes' | 'unreadable'

/**
 * The port to blob bytes. A blob's name is its digest *and* its incarnation, the id of the one upload that brought it; an incarnation is
 * never used twice, so a late delete can never hit live bytes. The store never decides whether something exists: rows do.
 * Errors: `BlobStoreError`, recognised by `code`.
 */
export interface BlobStore {
  /**
   * Writes a request body as one new segment of an upload, hashing as it arrives; when it answers, bytes and name are durable.
   * `body` is whatever `Request.body` holds. `limit` is the most bytes it may have, `expected` the exact number when it was announced.
   * Errors: BLOB_TOO_LARGE, BLOB_LENGTH (not `expected` bytes), BLOB_CUT (the client went away), BLOB_SLOW, BLOB_FULL. Nothing is left then.
   */
  writeSegment(incarnation: string, body: unknown, options: { limit: number; expected?: number }): Promise<Segment>
  /** Forgets a segment that no row names. Never fails for one that is gone. */
  dropSegment(incarnation: string, part: string): Promise<void>
  /** Whether every segment is there with its size (an upload whose segment is missing is purged). */
  segmentsIntact(incarnation: string, segments: readonly Segment[]): Promise<boolean>
  /** Joins segments in order to one new durable segment while hashing. Shape: the new segment and its digest in `algorithm`. */
  join(incarnation: string, segments: readonly Segment[], algorithm: Algorithm): Promise<{ segment: Segment; digest: Digest }>
  /** The digest of one segment in another algorithm than sha256; reads it again. */
  hash(incarnation: string, part: string, algorithm: Algorithm): Promise<Digest>
  /** Gives a segment its final name and makes it durable. Done twice, or found done, it is the same: it always syncs the directory. */
  commit(incarnation: string, part: string, digest: Digest): Promise<void>
  /**
   * Compares a stored file with its row: by its size, and with `pace` by its bytes, which are hashed piece by piece. `pace` is told of each
   * piece (bytes), and the next waits for it; what it throws ends the look. Errors: BLOB_BUSY.
   */
  inspect(digest: Digest, incarnation: string, size: number, pace?: (bytes: number) => Promise<void>): Promise<FileState>
  /** Keeps a copy of a damaged file where nobody reads it, for who looks into the damage. Never fails for one that is gone. */
  setAside(digest: Digest, incarnation: string): Promise<void>
  /** Forgets the copies that were set aside before a time (ms since 1970). Shape: how many went. */
  forgetSetAside(before: number): Promise<number>
  /** Size in bytes of the stored file, undefined when it is missing. */
  stat(digest: Digest, incarnation: string): Promise<number | undefined>
  /**
   * Opens stored bytes for a response body; `first` and `last` are inclusive. Shape: an opaque `BodyInit`, or undefined when the file is
   * missing or not `size` bytes long.
   */
  open(digest: Digest, incarnation: string, size: number, range?: { first: number; last: number }): Promise<BodyInit | undefined>
  /** One body from several pieces in order: literal bytes and ranges of one stored blob (multipart/byteranges). */
  openPieces(
    digest: Digest,
    incarnation: string,
    size: number,
    pieces: readonly (Uint8Array | { first: number; last: number })[],
  ): Promise<BodyInit | undefined>
  /** Removes the files of incarnations and what is left of their uploads. Never fails for what is gone; what cannot go is left out. */
  remove(dead: readonly Dead[]): Promise<Removed>
  /** What `remove` would do now. */
  wouldRemove(dead: readonly Dead[]): Promise<Removed>
  /** Size in bytes of the stored file, and how many other names it has: a hard link of a snapshot keeps its bytes. */
  weigh(digest: Digest, incarnation: string): Promise<{ size: number; otherNames: number } | undefined>
  /** Makes durable, beside the blobs, how far files have been removed: a number that only grows. Removing waits for it. */
  noteReaped(seq: number): Promise<void>
  /** The greatest number noted. A database that knows only a smaller one is older than the files: what it names may be gone. */
  lastReaped(): Promise<number>
  /** Every file, in no order, some at a time: for the sweep, which lists first and asks the database second. */
  list(): AsyncIterable<StoredFile[]>
  /** Whether the root can be read at all; a missing file means damage only while it can. */
  healthy(): Promise<boolean>
}

export type BlobStoreErrorCode =
  | 'BLOB_TOO_LARGE'
  | 'BLOB_LENGTH'
  | 'BLOB_CUT'
  | 'BLOB_SLOW'
  | 'BLOB_FULL'
  | 'BLOB_BUSY'
  | 'BLOB_IO'
export interface BlobStoreError extends Error {
  code: BlobStoreErrorCode
}
