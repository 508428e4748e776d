import { setTimeout as sleep } from 'node:timers/promises'
import type Database from 'libsql'
import { metadataError } from '../lib/metadata/errors.ts'
import type { Row, Sql, SqlValue } from '../lib/metadata/sql.ts'

export type Connection = Database.Database

/** How long a lock of another process is waited for before the caller is told to try again. */
const lockWaitMs = 10_000
const statements = 500

/** `Sql` over one connection. Statements are prepared once; the driver aborts the process on values it does not know, so each is looked at. */
export function sqlOver(db: Connection, attempt: <T>(call: () => T) => Promise<T>): Sql {
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
      return await attempt(() => (prepare(text).all(...args.map(bindable)) as Record<string, unknown>[]).map(readable) as R[])
    },
    async run(text, args = []) {
      return await attempt(() => (prepare(text).run(...args.map(bindable)) as { changes: number }).changes)
    },
  }
}

/** Tries until the file is not busy with somebody else's lock, for as long as anybody waits; the event loop goes on meanwhile. */
export async function patiently<T>(
  call: () => T,
  since: number,
  onFatal: (error: Error) => void,
  waitMs = lockWaitMs,
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return call()
    } catch (error) {
      const failure = translate(error, onFatal)
      if (codeOf(failure) !== 'DB_BUSY' || performance.now() - since > waitMs) throw failure
      await sleep(Math.min(1 + attempt, 20) * (0.5 + Math.random()))
    }
  }
}

/** Once more where the disk was full and is not any more. */
export function withRoom<T>(call: () => T, onFull: () => boolean): T {
  try {
    return call()
  } catch (error) {
    if (!isFull(codeOf(error)) || !onFull()) throw error
    return call()
  }
}

export const codeOf = (error: unknown) => (error as { code?: string }).code ?? ''
/** The index of the log has to grow as well, and SQLite calls it an I/O error when it cannot. */
const isFull = (code: string) => code === 'SQLITE_FULL' || code === 'SQLITE_IOERR_SHMSIZE'

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

export function translate(error: unknown, onFatal: (error: Error) => void): Error {
  const { code = '', message = '' } = error as { code?: string; message?: string }
  if (code.startsWith('DB_')) return error as Error
  if (code.startsWith('SQLITE_BUSY') || code === 'SQLITE_LOCKED') return metadataError('DB_BUSY', message, error)
  if (code.startsWith('SQLITE_CONSTRAINT')) return metadataError('DB_CONSTRAINT', message, error)
  if (isFull(code)) return metadataError('DB_FULL', message, error)
  if (/^SQLITE_(IOERR|CORRUPT|NOTADB)/.test(code)) {
    const fatal = metadataError('DB_UNKNOWN', message, error)
    onFatal(fatal)
    return fatal
  }
  return metadataError('DB_ERROR', message, error)
}
