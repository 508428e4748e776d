import { appendToChain, type JournalEntry } from '../lib/journal/chain.ts'
import type { MetadataStore, Sql } from '../lib/metadata/sql.ts'
import { type Connection, codeOf, patiently, sqlOver, translate, withRoom } from './database-sql.ts'
import { guardMarks, refusing } from './marks.ts'
import { sha256 } from './sha256.ts'

/** Works that share one commit. */
const groupSize = 64
const groupMs = 20
/** Who may wait, such as a checkpoint, holds up the works behind it no longer than this. */
const exclusiveWaitMs = 1_000

export interface CommitOptions {
  /** The file can no longer be trusted (I/O error, corruption, replaced under us): end the process, a supervisor starts it again. */
  onFatal: (error: Error) => void
  /** The disk is full. Shape: whether some of it was freed, so that trying once more is worth it. */
  onFull: () => boolean
  writes?: 'anything' | 'marks'
}

interface Waiting {
  since: number
  work: (sql: Sql, append: (entry: JournalEntry) => void) => Promise<unknown>
  resolve: (value: never) => void
  reject: (error: unknown) => void
}
export type GroupCommit = MetadataStore['write'] & { exclusive(work: () => boolean): Promise<boolean>; idle(): Promise<void> }

/**
 * Commits in groups: works that wait share one transaction, each in a savepoint of its own, and nobody is answered before COMMIT has
 * returned. A full disk, an I/O error or no memory end the *whole* transaction behind our back: the next SAVEPOINT would open a new one
 * and its RELEASE would commit it. So after any failure the connection is asked whether it still is in the transaction; if not, the group
 * is abandoned and its works run again one by one.
 */
export function createGroupCommit(
  db: Connection,
  { onFatal, onFull, writes = 'anything' }: CommitOptions,
  afterGroup: () => Promise<void>,
): GroupCommit {
  const plain = sqlOver(db, async (call) => translated(call))
  const sql = writes === 'marks' ? refusing(plain) : plain
  let guarded = writes === 'anything'
  const queue: Waiting[] = []
  let running: Promise<void> | undefined
  let turn: Promise<unknown> = Promise.resolve()

  const write = <T>(work: (sql: Sql, append: (entry: JournalEntry) => void) => Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      if (!guarded) guardMarks(db)
      guarded = true
      queue.push({ since: performance.now(), work, resolve, reject } as never)
      running ??= drain()
    })

  async function drain(): Promise<void> {
    while (queue.length > 0) {
      // A commit holds the event loop while the disk syncs, and requests gather meanwhile: one turn lets them all join the group.
      await new Promise((resolve) => setImmediate(resolve))
      await alone(() => commitGroup(queue.splice(0, groupSize)))
      // What it cannot do now it can do after another group; its failures are the timed one's to tell.
      await afterGroup().catch(() => undefined)
    }
    // In the same turn as the last look at the queue: what is written a moment later starts the next one.
    running = undefined
  }

  /** One user of the connection at a time. */
  async function alone<T>(work: () => Promise<T>): Promise<T> {
    const mine = turn.then(work)
    // The caller hears of it; the next one's turn comes all the same.
    turn = mine.catch(() => undefined)
    return await mine
  }

  function translated<T>(call: () => T): T {
    try {
      return call()
    } catch (error) {
      throw translate(error, onFatal)
    }
  }

  /** `exec`, not a prepared statement: one that failed with BUSY stays open and poisons the connection. */
  const begin = async (since: number, waitMs?: number) =>
    await patiently(() => db.exec('BEGIN IMMEDIATE'), since, onFatal, waitMs)
  const commit = () => translated(() => db.exec('COMMIT'))
  const abandon = () => {
    if (db.inTransaction) db.exec('ROLLBACK')
  }

  async function commitGroup(group: Waiting[]): Promise<void> {
    if (group.length === 1) return await commitOne(group[0] as Waiting)
    try {
      await begin((group[0] as Waiting).since)
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

  async function commitOne(waiting: Waiting, when: 'first' | 'again' = 'first'): Promise<void> {
    const { since, work, resolve, reject } = waiting
    try {
      await begin(since)
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
      if (codeOf(error) === 'DB_FULL' && when === 'first' && onFull()) return await commitOne(waiting, 'again')
      reject(error)
    }
  }

  return Object.assign(write, {
    exclusive: (work: () => boolean) =>
      alone(async () => {
        await begin(performance.now(), exclusiveWaitMs)
        try {
          return translated(() => withRoom(work, onFull))
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
