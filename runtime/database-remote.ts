import { setTimeout as sleep } from 'node:timers/promises'
import { createClient, type InValue, type ResultSet } from '@libsql/client'
import { appendToChain, type JournalEntry } from '../lib/journal/chain.ts'
import { isMetadataError, metadataError } from '../lib/metadata/errors.ts'
import type { MetadataStore, Row, Sql, SqlValue } from '../lib/metadata/sql.ts'
import { sha256 } from './sha256.ts'

/** How often a transaction that lost the server's write lock is run again. */
const attempts = 8

/**
 * The metadata database behind a libSQL server. Nothing can be remembered beyond a request: the server does not say cheaply whether
 * anything changed. The server syncs nothing per commit, so what it acknowledges survives a kill of ours, not a power cut of its own.
 * Errors: MetadataError; a commit whose answer was lost is DB_UNKNOWN, and is looked up by whoever asked for it.
 */
export function openDatabaseRemote(url: string, authToken: string | undefined): MetadataStore {
  const client = createClient({ url, authToken, intMode: 'number', fetch: plainFetch })
  const sqlOver = (execute: (text: string, args: InValue[]) => Promise<ResultSet>): Sql => {
    const ask = async (text: string, args: readonly SqlValue[] = []) => {
      try {
        return await execute(text, args.map(bindable))
      } catch (error) {
        throw translate(error)
      }
    }
    return {
      all: async <R extends object = Row>(text: string, args?: readonly SqlValue[]) => {
        const { columns, rows } = await ask(text, args)
        return rows.map((row) => Object.fromEntries(columns.map((name, index) => [name, readable(row[index])]))) as R[]
      },
      run: async (text, args) => (await ask(text, args)).rowsAffected,
    }
  }

  async function writeOnce<T>(work: (sql: Sql, append: (entry: JournalEntry) => void) => Promise<T>): Promise<T> {
    const transaction = await client.transaction('write').catch((error) => {
      throw translate(error)
    })
    try {
      const sql = sqlOver((text, args) => transaction.execute({ sql: text, args }))
      const entries: JournalEntry[] = []
      const value = await work(sql, (entry) => entries.push(entry))
      // The server takes the lock from a transaction that is slow: two heads then meet in the number, which is the key.
      await appendToChain(sql, entries, sha256)
      await transaction.commit().catch((error) => {
        const failure = translate(error)
        // Refused is refused; no answer may mean that it happened.
        throw failure.code === 'DB_ERROR' ? metadataError('DB_UNKNOWN', failure.message, error) : failure
      })
      return value
    } finally {
      transaction.close()
    }
  }

  return {
    read: sqlOver((sql, args) => client.execute({ sql, args })),
    revision: () => undefined,
    async write(work) {
      for (let attempt = 1; ; attempt++) {
        try {
          return await writeOnce(work)
        } catch (error) {
          if (!isMetadataError(error) || error.code !== 'DB_BUSY' || attempt === attempts) throw error
          await sleep(attempt * 20 * (0.5 + Math.random()))
        }
      }
    },
    async close() {
      client.close()
    },
  }
}

/** The client hands over a Request of whatever kind stands on globalThis; Node's own fetch takes only its own. */
async function plainFetch(request: Request): Promise<Response> {
  const { method, headers, url } = request
  return await fetch(url, {
    method,
    headers: Object.fromEntries(headers),
    body: method === 'GET' ? undefined : await request.arrayBuffer(),
  })
}

function bindable(value: SqlValue): InValue {
  if (typeof value === 'string' && value.includes('\0')) throw metadataError('DB_ERROR', 'cannot bind a text with a NUL')
  if (typeof value === 'boolean') return value ? 1n : 0n
  // A number is bound as REAL; whole ones go in as integers.
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : value
  if (value === null || typeof value === 'string' || typeof value === 'bigint' || ArrayBuffer.isView(value)) return value
  throw metadataError('DB_ERROR', `cannot bind a ${typeof value}`)
}

const readable = (value: unknown) => (value instanceof ArrayBuffer ? new Uint8Array(value) : value)

function translate(error: unknown): Error & { code: string } {
  if (isMetadataError(error)) return error
  const { code = '', message = String(error) } = error as { code?: string; message?: string }
  if (/SQLITE_BUSY|SQLITE_LOCKED|TRANSACTION_TIMEOUT|TRANSACTION_CLOSED|STREAM_EXPIRED/.test(`${code} ${message}`))
    return metadataError('DB_BUSY', message, error)
  if (/SQLITE_CONSTRAINT|constraint failed|RAISE/.test(`${code} ${message}`))
    return metadataError('DB_CONSTRAINT', message, error)
  if (/SQLITE_FULL/.test(`${code} ${message}`)) return metadataError('DB_FULL', message, error)
  return metadataError('DB_ERROR', message, error)
}
