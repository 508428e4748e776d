import { chmodSync, closeSync, existsSync, fstatSync, openSync, readSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'libsql'
import { appendToChain, type JournalEntry } from '../lib/journal/chain.ts'
import { metadataError } from '../lib/metadata/errors.ts'
import type { MetadataStore, Row, Sql, SqlValue } from '../lib/metadata/sql.ts'
import { guardMarks, refusing } from './marks.ts'
import { sha256 } from './sha256.ts'

/** How long BEGIN may wait for another process's transaction before the caller is told to try again. */
const lockWaitMs = 10_000
/** The driver's own wait blocks the event loop, so it is short and the rest of the waiting is ours. */
const busyTimeoutMs = 5
/** Works that share one commit. */
const groupSize = 64
const groupMs = 20
const statements = 500
const inodeCheckMs = 5_000

export interface FileDatabase extends MetadataStore {
  /** Copies the write-ahead log into the database while holding the write lock. Shape: whether it was done, and the log's bytes. */
  checkpoint(): Promise<{ done: boolean; walBytes: number }>
  walBytes(): number
}

/**
 * The metadata database as a local file: one connection that writes, one that only reads, commits in groups.
 * Every connection gets its PRAGMAs and is asked whether it took them. `onFatal` is called when the file can no longer be trusted (I/O
 * error, corruption, the file replaced under us): end the process then, a supervisor starts it again.
 * `writes: 'marks'`: the writing connection refuses everything but what reading leaves behind (runtime/marks.ts).
 * Errors: a plain Error where the file cannot be opened; afterwards MetadataError.
 */
export async function openDatabaseFile(
  path: string,
  options: { onFatal: (error: Error) => void; readOnly?: boolean; writes?: 'anything' | 'marks' },
): Promise<FileDatabase> {
  const fresh = !existsSync(path)
  const writer = options.readOnly ? undefined : connect(path, 'write')
  if (fresh && writer) chmodSync(path, 0o600)
  const reader = connect(`file:${path}?mode=ro`, 'read')
  const changes = watchChanges(path, options.onFatal)
  const read = sqlOver(reader, options.onFatal)
  const group = writer && createGroupCommit(writer, options.onFatal, options.writes)
  let copier: Connection | undefined
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
      // With the write lock held nobody can restart the log while it is copied: the bundled SQLite would lose commits to that race.
      const done = await group.exclusive(() => {
        copier ??= connect(path, 'write')
        return (copier.prepare('PRAGMA wal_checkpoint(PASSIVE)').all() as { busy: number }[])[0]?.busy === 0
      })
      return { done, walBytes: walBytes() }
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

type Connection = Database.Database

function connect(path: string, mode: 'read' | 'write'): Connection {
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
  } else pragma('query_only', 1)
  pragma('trusted_schema', 0)
  pragma('mmap_size', 0)
  pragma('cell_size_check', 1)
  pragma('busy_timeout', busyTimeoutMs)
  // The first look makes SQLite open its index of the log; only then may anybody else.
  db.prepare('SELECT count(*) AS n FROM sqlite_schema').all()
  return db
}

/** `Sql` over one connection. Statements are prepared once; the driver aborts the process on values it does not know, so each is looked at. */
function sqlOver(db: Connection, onFatal: (error: Error) => void): Sql {
  const prepared = new Map<string, Database.Statement>()
  const prepare = (text: string) => {
    let statement = prepared.get(text)
    if (!statement) {
      if (prepared.size >= statements) prepared.delete(prepared.keys().next().value as string)
      statement = db.prepare(text)
      prepared.set(text, statement)
    }
    return statement
  }
  return {
    async all<R extends object = Row>(text: string, args: readonly SqlValue[] = []) {
      try {
        return (prepare(text).all(...args.map(bindable)) as Record<string, unknown>[]).map(readable) as R[]
      } catch (error) {
        throw translate(error, onFatal)
      }
    },
    async run(text, args = []) {
      try {
        return (prepare(text).run(...args.map(bindable)) as { changes: number }).changes
      } catch (error) {
        throw translate(error, onFatal)
      }
    },
  }
}

/** The driver answers blobs as ArrayBuffer; the port's are Uint8Array. */
function readable(row: Record<string, unknown>): Record<string, unknown> {
  for (const name in row) if (row[name] instanceof ArrayBuffer) row[name] = new Uint8Array(row[name])
  return row
}

function bindable(value: SqlValue): SqlValue {
  switch (typeof value) {
    case 'number':
      // A number is bound as REAL; whole ones go in as integers, or `LIMIT ?` and untyped comparisons would see 1.0.
      if (Number.isSafeInteger(value)) return BigInt(value)
      return value
    case 'boolean':
      return value ? 1n : 0n
    case 'string':
      // The driver cuts text at the first NUL.
      if (value.includes('\0')) throw metadataError('DB_ERROR', 'cannot bind a text with a NUL')
      return value
    case 'bigint':
      return value
    default:
      if (value === null) return null
      // A view of another kind or realm would abort the process: it gets a Buffer over the same bytes.
      if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
      throw metadataError('DB_ERROR', `cannot bind a ${typeof value}`)
  }
}

function translate(error: unknown, onFatal: (error: Error) => void): Error {
  const { code = '', message = '' } = error as { code?: string; message?: string }
  if (code.startsWith('DB_')) return error as Error
  if (code.startsWith('SQLITE_BUSY') || code === 'SQLITE_LOCKED') return metadataError('DB_BUSY', message, error)
  if (code.startsWith('SQLITE_CONSTRAINT')) return metadataError('DB_CONSTRAINT', message, error)
  if (code === 'SQLITE_FULL') return metadataError('DB_FULL', message, error)
  if (/^SQLITE_(IOERR|CORRUPT|NOTADB)/.test(code)) {
    const fatal = metadataError('DB_UNKNOWN', message, error)
    onFatal(fatal)
    return fatal
  }
  return metadataError('DB_ERROR', message, error)
}

interface Waiting {
  work: (sql: Sql, append: (entry: JournalEntry) => void) => Promise<unknown>
  resolve: (value: never) => void
  reject: (error: unknown) => void
}
type GroupCommit = MetadataStore['write'] & { exclusive(work: () => boolean): Promise<boolean>; idle(): Promise<void> }

/**
 * Commits in groups: works that wait share one transaction, each in a savepoint of its own, and nobody is answered before COMMIT has
 * returned. A full disk, an I/O error or no memory end the *whole* transaction behind our back: the next SAVEPOINT would open a new one
 * and its RELEASE would commit it. So after any failure the connection is asked whether it still is in the transaction; if not, the group
 * is abandoned and its works run again one by one.
 */
function createGroupCommit(
  db: Connection,
  onFatal: (error: Error) => void,
  writes: 'anything' | 'marks' = 'anything',
): GroupCommit {
  const sql = writes === 'marks' ? refusing(sqlOver(db, onFatal)) : sqlOver(db, onFatal)
  let guarded = writes === 'anything'
  const queue: Waiting[] = []
  let running: Promise<void> | undefined
  let turn: Promise<unknown> = Promise.resolve()

  const write = <T>(work: (sql: Sql, append: (entry: JournalEntry) => void) => Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      if (!guarded) guardMarks(db)
      guarded = true
      queue.push({ work, resolve, reject } as never)
      running ??= drain()
    })

  async function drain(): Promise<void> {
    while (queue.length > 0) {
      // A commit holds the event loop while the disk syncs, and requests gather meanwhile: one turn lets them all join the group.
      await new Promise((resolve) => setImmediate(resolve))
      await alone(() => commitGroup(queue.splice(0, groupSize)))
    }
    // In the same turn as the last look at the queue: what is written a moment later starts the next one.
    running = undefined
  }

  /** One user of the connection at a time. */
  async function alone<T>(work: () => Promise<T>): Promise<T> {
    const mine = turn.then(work)
    turn = mine.catch(() => undefined)
    return await mine
  }

  async function begin(): Promise<void> {
    const deadline = Date.now() + lockWaitMs
    for (let attempt = 0; ; attempt++) {
      try {
        // `exec`, not a prepared statement: one that failed with BUSY stays open and poisons the connection.
        db.exec('BEGIN IMMEDIATE')
        return
      } catch (error) {
        const failure = translate(error, onFatal)
        if ((failure as { code?: string }).code !== 'DB_BUSY' || Date.now() > deadline) throw failure
        await sleep(Math.min(1 + attempt, 20) * (0.5 + Math.random()))
      }
    }
  }

  const commit = () => {
    try {
      db.exec('COMMIT')
    } catch (error) {
      throw translate(error, onFatal)
    }
  }
  const abandon = () => {
    if (db.inTransaction) db.exec('ROLLBACK')
  }

  async function commitGroup(group: Waiting[]): Promise<void> {
    if (group.length === 1) return await commitOne(group[0] as Waiting)
    try {
      await begin()
    } catch (error) {
      for (const { reject } of group) reject(error)
      return
    }
    const started = performance.now()
    const done: { waiting: Waiting; value: unknown }[] = []
    const failed: { waiting: Waiting; error: unknown }[] = []
    const journal: JournalEntry[] = []
    for (const [index, waiting] of group.entries()) {
      if (performance.now() - started > groupMs && done.length > 0) {
        queue.unshift(...group.slice(index))
        break
      }
      const entries: JournalEntry[] = []
      try {
        db.exec('SAVEPOINT work')
        const value = await waiting.work(sql, (entry) => entries.push(entry))
        db.exec('RELEASE work')
        done.push({ waiting, value })
        journal.push(...entries)
      } catch (error) {
        if (!db.inTransaction) return await oneByOne([...done.map((entry) => entry.waiting), ...group.slice(index)], failed)
        db.exec('ROLLBACK TO work')
        db.exec('RELEASE work')
        failed.push({ waiting, error })
      }
    }
    try {
      await appendToChain(sql, journal, sha256)
      commit()
    } catch {
      abandon()
      return await oneByOne(
        done.map((entry) => entry.waiting),
        failed,
      )
    }
    for (const { waiting, value } of done) waiting.resolve(value as never)
    for (const { waiting, error } of failed) waiting.reject(error)
  }

  async function oneByOne(works: Waiting[], failed: { waiting: Waiting; error: unknown }[]): Promise<void> {
    for (const { waiting, error } of failed) waiting.reject(error)
    for (const waiting of works) await commitOne(waiting)
  }

  async function commitOne({ work, resolve, reject }: Waiting): Promise<void> {
    try {
      await begin()
      try {
        const entries: JournalEntry[] = []
        const value = await work(sql, (entry) => entries.push(entry))
        await appendToChain(sql, entries, sha256)
        commit()
        resolve(value as never)
      } catch (error) {
        abandon()
        throw error
      }
    } catch (error) {
      reject(error)
    }
  }

  return Object.assign(write, {
    exclusive: (work: () => boolean) =>
      alone(async () => {
        await begin()
        try {
          return work()
        } finally {
          abandon()
        }
      }),
    idle: async () => {
      while (running) await running
      await turn
    },
  })
}

/**
 * Notices every commit of every process by SQLite's own change counter: the header of the WAL index, which each commit and checkpoint
 * rewrites before it returns. The file is opened once and never closed while the database is open: closing any descriptor of it would
 * drop this process's POSIX locks, and two writers would commit over each other.
 */
function watchChanges(path: string, onFatal: (error: Error) => void): { revision: () => number; close: () => void } {
  const file = `${path}-shm`
  const fd = openSync(file, 'r')
  const inode = fstatSync(fd).ino
  const header = Buffer.alloc(96)
  let last: Buffer = Buffer.alloc(96)
  let spare: Buffer = header
  let counter = 1
  const check = setInterval(() => {
    let now: number | undefined
    try {
      now = statSync(file).ino
    } catch {
      now = undefined
    }
    if (now !== inode) onFatal(new Error(`${file} was replaced while this process has it open`))
  }, inodeCheckMs)
  check.unref()
  return {
    revision() {
      readSync(fd, spare, 0, 96, 0)
      // Two copies that differ: a commit is under way, and whatever it is, it is a change.
      if (spare.compare(last) !== 0 || spare.compare(spare, 48, 96, 0, 48) !== 0) {
        counter++
        const previous = last
        last = spare
        spare = previous
      }
      return counter
    },
    close() {
      clearInterval(check)
      closeSync(fd)
    },
  }
}
