import { chmodSync, existsSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'libsql'
import { metadataError } from '../lib/metadata/errors.ts'
import type { MetadataStore, Sql } from '../lib/metadata/sql.ts'
import { watchChanges } from './database-changes.ts'
import { type CommitOptions, createGroupCommit, type GroupCommit } from './database-commit.ts'
import { type Connection, patiently, sqlOver, withRoom } from './database-sql.ts'

/** The driver's own wait blocks the event loop, so it is short and the rest of the waiting is ours. */
const busyTimeoutMs = 5
const connectWaitMs = 10_000
/**
 * The log is copied into the database when so many of its pages are not there yet: 2 MiB. Nobody writes meanwhile, and garbage collection leaves
 * pages from all over the database, so it is little at a time.
 */
const pagesToCopy = 512

export interface FileDatabase extends MetadataStore {
  /** Copies the write-ahead log into the database while holding the write lock. Shape: whether it was done, and the log's bytes. */
  checkpoint(): Promise<{ done: boolean; walBytes: number }>
  walBytes(): number
}

export interface DatabaseFileOptions extends Omit<CommitOptions, 'onFull'> {
  onFull?: CommitOptions['onFull']
  readOnly?: boolean
}

/**
 * The metadata database as a local file: one connection that writes, one that only reads, commits in groups.
 * Every connection gets its PRAGMAs and is asked whether it took them.
 * `writes: 'marks'`: the writing connection refuses everything but what reading leaves behind (runtime/marks.ts).
 * Errors: a plain Error where the file cannot be opened; afterwards MetadataError.
 */
export async function openDatabaseFile(path: string, options: DatabaseFileOptions): Promise<FileDatabase> {
  const { onFatal, onFull = () => false } = options
  const fresh = !existsSync(path)
  const open = (file: string, mode: 'read' | 'write') => inTime(() => withRoom(() => connect(file, mode), onFull))
  const writer = options.readOnly ? undefined : await open(path, 'write')
  if (fresh && writer) chmodSync(path, 0o600)
  const reader = await open(`file:${path}?mode=ro`, 'read')
  const changes = watchChanges(path, onFatal)
  const read = sqlOver(reader, (call) => patiently(call, performance.now(), onFatal))
  const group =
    writer &&
    createGroupCommit(writer, { onFatal, onFull, writes: options.writes }, async () => {
      if (changes.pagesNotCopied() >= pagesToCopy) await copyLog(group as GroupCommit)
    })
  let copier: Connection | undefined
  /** With the write lock held nobody can restart the log while it is copied: the bundled SQLite would lose commits to that race. */
  const copyLog = async ({ exclusive }: Pick<GroupCommit, 'exclusive'>) =>
    await exclusive(() => {
      copier ??= connect(path, 'write')
      return (copier.prepare('PRAGMA wal_checkpoint(PASSIVE)').all() as { busy: number }[])[0]?.busy === 0
    })
  const walBytes = () => {
    try {
      return statSync(`${path}-wal`).size
    } catch {
      return 0
    }
  }
  return {
    read,
    write: (work) => {
      if (!group) throw metadataError('DB_ERROR', 'this process reads only')
      return group(work)
    },
    revision: changes.revision,
    walBytes,
    async checkpoint() {
      if (!writer || !group) return { done: false, walBytes: walBytes() }
      return { done: await copyLog(group), walBytes: walBytes() }
    },
    async close() {
      await group?.idle()
      changes.close()
      reader.close()
      copier?.close()
      writer?.close()
    },
  }
}

/** Processes that start together on a new file wait for whoever makes it. */
async function inTime(open: () => Connection): Promise<Connection> {
  for (const deadline = Date.now() + connectWaitMs; ; ) {
    try {
      return open()
    } catch (error) {
      if (!`${(error as { code?: string }).code}`.startsWith('SQLITE_BUSY') || Date.now() > deadline) throw error
      await sleep(20 * (0.5 + Math.random()))
    }
  }
}

/**
 * Writes one whole state of a database that others may be using to a new file. It holds the thread and pins the log for as long as it
 * takes, so it runs in a process of its own. Errors: a plain Error; the copy is checked and is not whole then.
 */
export function copyDatabase(path: string, target: string): void {
  const source = connect(`file:${path}?mode=ro`, 'copy')
  source.prepare('VACUUM INTO ?').run(target)
  source.close()
  const copy = connect(`file:${target}?mode=ro&immutable=1`, 'copy')
  const [check] = copy.prepare('PRAGMA integrity_check(1)').all() as { integrity_check: string }[]
  copy.close()
  if (check?.integrity_check !== 'ok') throw new Error(`the database is damaged: ${check?.integrity_check}`)
}

/** Reads a copy that nobody writes and no other process has to hear of. */
export function readDatabaseCopy(path: string): { read: Sql; close(): void } {
  const db = connect(`file:${path}?mode=ro&immutable=1`, 'copy')
  const read = sqlOver(db, async (call) => call())
  return { read, close: () => db.close() }
}

function connect(path: string, mode: 'read' | 'write' | 'copy'): Connection {
  const db = new Database(path, { timeout: busyTimeoutMs } as never)
  const pragma = (name: string, value: string | number, expected: string | number = value) => {
    db.prepare(`PRAGMA ${name} = ${value}`).all()
    const [row] = db.prepare(`PRAGMA ${name}`).all() as Record<string, unknown>[]
    const actual = row && Object.values(row)[0]
    if (String(actual).toLowerCase() !== String(expected).toLowerCase())
      throw new Error(`${path}: PRAGMA ${name} is ${actual}, not ${expected}`)
  }
  if (mode === 'write') {
    pragma('journal_mode', 'wal')
    pragma('synchronous', 'full', 2)
    pragma('foreign_keys', 1)
    pragma('journal_size_limit', 64 * 1024 * 1024)
    pragma('wal_autocheckpoint', 0)
  } else if (mode === 'read') pragma('query_only', 1)
  pragma('trusted_schema', 0)
  pragma('mmap_size', 0)
  pragma('cell_size_check', 1)
  pragma('busy_timeout', busyTimeoutMs)
  // The first look makes SQLite open its index of the log; only then may anybody else.
  db.prepare('SELECT count(*) AS n FROM sqlite_schema').all()
  return db
}
