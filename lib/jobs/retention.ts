/**
 * How long things stay, in epochs. None of it is needed for safety: references are asked for again in the transaction that deletes. It is
 * what a client may count on: a blob it was told is there is there when its manifest comes, what was deleted can be brought back.
 */
export interface Retention {
  /** How long an epoch lasts, in ms of observed time. */
  readonly epochMs: number
  /** A row wanted in epoch e is cold when the current one is e + this: 2, or 0 where nothing is warm. */
  readonly coldAfter: number
  /** What was deleted in epoch e may be collected when the current one is e + this. */
  readonly windowAfter: number
  /** The file of what was collected in epoch e goes when the current one is e + this: reads that began before may finish. */
  readonly quarantineAfter: number
  /** Manifests without a tag, of these repositories (globs), go when nothing wanted them for this many epochs; undefined: never. */
  readonly untagged: { readonly after: number; readonly repositories: readonly string[] } | undefined
  /** Things that garbage collection may look at in a second; 0: as many as rests between its transactions allow. */
  readonly ratePerSecond: number
}

/** Below this a slow push may lose layers it uploaded to a collection and has to send them again. */
export const shortGraceMs = 3_600_000
/** Without grace epochs still pass, for the undelete window to be counted in. */
const epochWithoutGraceMs = 60_000

export interface RetentionOptions {
  graceMs: number
  windowMs: number
  /** how long a manifest without a tag stays; 0: for ever */
  untaggedMs: number
  untaggedRepositories: readonly string[]
  ratePerSecond: number
}

/** `graceMs` is the length of an epoch, 0: nothing is warm, nothing waits. `windowMs` is how long what was deleted may come back. */
export function retentionOf({ graceMs, windowMs, untaggedMs, untaggedRepositories, ratePerSecond }: RetentionOptions): Retention {
  const epochMs = graceMs === 0 ? epochWithoutGraceMs : graceMs
  return {
    epochMs,
    coldAfter: graceMs === 0 ? 0 : 2,
    // One more than fits: what was deleted at the end of an epoch has its window too.
    windowAfter: windowMs === 0 ? 0 : Math.ceil(windowMs / epochMs) + 1,
    quarantineAfter: graceMs === 0 ? 0 : 1,
    // Never sooner than what any push counts on.
    untagged:
      untaggedMs === 0
        ? undefined
        : { after: graceMs === 0 ? 0 : Math.max(2, Math.ceil(untaggedMs / epochMs) + 1), repositories: untaggedRepositories },
    ratePerSecond,
  }
}
