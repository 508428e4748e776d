import type { FileState } from '../blobs/blob-store.ts'

/** `damage` breaks a promise to somebody; `orphan` only takes space; `absent` was allowed to be absent; `healed` was damaged and is no more. */
export type Severity = 'damage' | 'orphan' | 'absent' | 'healed'

/** One thing that is not as it should be: what, where, and what to do about it. */
export interface Finding {
  severity: Severity
  what: keyof typeof kinds
  digest: string
  repositories: readonly string[]
  /** the file, tag, upload or target it is about */
  subject: string
}

const push = 'push the digest again to any of the repositories, or mcr repair --from a registry that has it'
const pushManifest = 'push the manifest again: it replaces the stored bytes'
const reconcile = 'mcr gc reconcile removes it'
const report =
  'stop the garbage collection (mcr serve --mount without its jobs), keep mcr snapshot of the database, and report it: no order of requests should lead here'

/** Everything a verification can find: a sentence, and the way out. */
export const kinds = {
  store_unreadable: {
    says: 'the directory of blobs cannot be read; nothing was marked, and no file was looked at further',
    hint: 'is its volume mounted? mount it and verify again',
  },
  blob_missing: { says: 'the file of a blob is missing', hint: push },
  blob_size: { says: 'the file of a blob has another size than its row', hint: push },
  blob_bytes: { says: 'the bytes of a blob do not hash to its digest', hint: push },
  blob_unreadable: { says: 'the disk cannot read the file of a blob', hint: `look at the disk; then ${push}` },
  blob_marked: {
    says: 'a blob is marked as damaged, and its file has its size',
    hint: `verify --deep reads it and takes the mark away if it is whole; else ${push}`,
  },
  blob_whole: { says: 'a blob was marked as damaged and is whole: the mark is gone', hint: 'nothing is to do' },
  link_without_blob: { says: 'a repository links a blob that has no row', hint: push },
  reference_missing: {
    says: 'a manifest needs a blob or manifest that its repository does not have',
    hint: 'push the target to the repository again',
  },
  reference_absent: { says: 'a manifest names a target that is not here, as it may', hint: 'nothing is to do' },
  references_differ: { says: 'the rows of references are not what the manifest says', hint: report },
  body_missing: { says: 'the bytes of a manifest are missing', hint: pushManifest },
  body_bytes: { says: 'the bytes of a manifest do not hash to its digest', hint: pushManifest },
  tag_without_manifest: { says: 'a tag has no manifest', hint: 'push the tag again, or delete it' },
  trash_alive: { says: 'the trash names a file that is in use, and would take it', hint: report },
  upload_segment: {
    says: 'a part of an upload under way is missing',
    hint: 'nothing is to do: its client is told to start again',
  },
  orphan_file: { says: 'a file that no row names', hint: reconcile },
  orphan_body: { says: 'the bytes of a manifest that is nowhere', hint: 'they only take space' },
} as const satisfies Record<string, { says: string; hint: string }>

export const kindOfState: Readonly<Record<Exclude<FileState, 'whole'>, Finding['what']>> = {
  missing: 'blob_missing',
  size: 'blob_size',
  bytes: 'blob_bytes',
  unreadable: 'blob_unreadable',
}

/** How far it is; `bytes` count where files are read. */
export interface Progress {
  phase: 'manifests' | 'blobs' | 'uploads' | 'files'
  done: number
  total: number
  bytes: number
  totalBytes: number
}

/** What was looked at, and how many findings of each severity there were. */
export interface Counts {
  manifests: number
  tags: number
  links: number
  blobs: number
  bytes: number
  files: number
  damage: number
  orphan: number
  absent: number
  healed: number
}
