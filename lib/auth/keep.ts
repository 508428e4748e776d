import type { MetadataStore } from '../metadata/sql.ts'

/** What is missing or old is asked for again, but not at the pace of whoever sends tokens. */
const againMs = 60_000
/** What another process was told counts as long: whoever is down longer than this may have withdrawn a key for a reason. */
const toldMs = 24 * 3_600_000
const refreshMs = 3_600_000

/** What a source told any process, in the database. */
export interface Told<T> {
  /** The newest within a day, `at` in milliseconds since 1970. */
  read(): Promise<{ value: T; at: number } | undefined>
  write(value: T): Promise<void>
}

/** `source` names what is told and by whom, such as `keys https://issuer.example`. */
export function toldBy<T>(metadata: MetadataStore, source: string, now: () => number): Told<T> {
  let written: { text: string; at: number } | undefined
  return {
    async read() {
      const [row] = await metadata.read.all<{ told: string; at: number }>(
        `SELECT told, told_at AS at FROM issuer_keys WHERE source = ? AND told_at > ?`,
        [source, now() - toldMs],
      )
      return row && { value: JSON.parse(row.told) as T, at: row.at }
    },
    async write(value) {
      const text = JSON.stringify(value)
      const at = now()
      if (written?.text === text && at - written.at < refreshMs) return
      await metadata.write(async (sql) => {
        await sql.run(`DELETE FROM issuer_keys WHERE told_at <= ?`, [at - toldMs])
        await sql.run(
          `INSERT INTO issuer_keys(source, told, told_at) VALUES (?, ?, ?)
           ON CONFLICT (source) DO UPDATE SET told = excluded.told, told_at = excluded.told_at`,
          [source, text, at],
        )
      })
      written = { text, at }
    },
  }
}

/**
 * A value that one caller at a time asks for, until `good` says no of it (age in ms). While there is no newer one the last counts, and is
 * asked for once a minute at most; without any, what another process was told counts. Errors: those of `load` while there is no value at all.
 */
export function keep<T>(
  load: () => Promise<T>,
  now: () => number,
  told?: Told<T>,
): (good: (value: T, age: number) => boolean) => Promise<T> {
  let kept: { value: T; at: number } | undefined
  let loading: Promise<T> | undefined
  let triedAt = Number.NEGATIVE_INFINITY
  async function reload(): Promise<T> {
    triedAt = now()
    try {
      const value = await load()
      kept = { value, at: now() }
      await told?.write(value)
      return value
    } catch (error) {
      kept ??= await told?.read()
      if (kept) return kept.value
      throw error
    } finally {
      loading = undefined
    }
  }
  return async (good) => {
    if (kept && good(kept.value, now() - kept.at)) return kept.value
    if (kept && !loading && now() - triedAt <= againMs) return kept.value
    loading ??= reload()
    return await loading
  }
}
