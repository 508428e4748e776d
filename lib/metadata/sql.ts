import type { JournalEntry } from '../journal/chain.ts'

/** A value that may be bound or read. A boolean is bound as 0 or 1; an integer that fits is read as a number. */
export type SqlValue = null | number | bigint | string | Uint8Array | boolean
export type Row = Record<string, SqlValue>

/**
 * The way to a database: literal SQL, positional `?` arguments.
 * Errors: `MetadataError`, recognised by `code`.
 */
export interface Sql {
  /** All rows of one statement, in its own order. */
  all<R extends object = Row>(text: string, args?: readonly SqlValue[]): Promise<R[]>
  /** Runs one statement. Shape: the number of rows it changed. */
  run(text: string, args?: readonly SqlValue[]): Promise<number>
}

/** The port to the metadata database. Queries are functions over `Sql`, so that this never grows. */
export interface MetadataStore {
  /** Reads what is committed. One statement sees one state; two statements may see two. */
  readonly read: Sql
  /**
   * Runs `work` in a serialisable write transaction and answers after its commit is durable. Several works may share one commit:
   * each is rolled back alone when it throws. `work` awaits nothing but its own `sql`, takes milliseconds, and may run more than once.
   * What it appends is chained into the journal at the end of the commit.
   * Errors: whatever `work` throws, with nothing of it kept; `MetadataError`.
   */
  write<T>(work: (sql: Sql, append: (entry: JournalEntry) => void) => Promise<T>): Promise<T>
  /** A number that moves whenever anything was committed by anybody; undefined where that cannot be known cheaply (remote). */
  revision(): number | undefined
  close(): Promise<void>
}

/** `busy`: no write lock in time, try again. `full`: no space. `constraint`: the transaction broke a rule. `unknown`: it may have happened. */
export type MetadataErrorCode = 'DB_BUSY' | 'DB_FULL' | 'DB_CONSTRAINT' | 'DB_UNKNOWN' | 'DB_ERROR'
export interface MetadataError extends Error {
  code: MetadataErrorCode
}
