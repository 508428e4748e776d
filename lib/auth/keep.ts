/** What is missing or old is asked for again, but not at the pace of whoever sends tokens. */
const againMs = 60_000

/**
 * A value that one caller at a time asks for, until `good` says no of it (age in ms). While there is no newer one the last counts, and is
 * asked for once a minute at most. Errors: those of `load` while there is no value at all.
 */
export function keep<T>(load: () => Promise<T>, now: () => number): (good: (value: T, age: number) => boolean) => Promise<T> {
  let kept: { value: T; at: number } | undefined
  let loading: Promise<T> | undefined
  let triedAt = Number.NEGATIVE_INFINITY
  async function reload(): Promise<T> {
    triedAt = now()
    try {
      const value = await load()
      kept = { value, at: now() }
      return value
    } catch (error) {
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
