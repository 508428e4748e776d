/** An image or an index as a client made it, with what it needs to be whole. */
export interface Image {
  repository: string
  digest: string
  text: string
  type: string
  blobs: readonly { digest: string; size: number }[]
}

/** How a request ended for its client: answered, or without an answer, and then it may have happened or not. */
export type Outcome = 'done' | 'unknown'

export interface KnownImage extends Image {
  /** What a registry that keeps its word may answer: 'here' and 'gone' while nobody knows. */
  may: Set<'here' | 'gone'>
}

export interface KnownTag {
  repository: string
  tag: string
  /** Digests it may point at; '' is no such tag. */
  may: Set<string>
}

/**
 * What the clients of a registry know: every answer that promised something. Each image and tag belongs to one client, which asks for one
 * thing at a time, so what may be seen is a small set. `touched` is what changed since the last call of `settle`.
 */
export interface History {
  pushed(image: Image, tags: readonly string[], outcome: Outcome): void
  untagged(repository: string, tag: string, outcome: Outcome): void
  deleted(image: Image, outcome: Outcome): void
  images(): readonly KnownImage[]
  tags(): readonly KnownTag[]
  touched: { images: Set<KnownImage>; tags: Set<KnownTag> }
  counts: { pushes: number; tagMoves: number; deletes: number; unknown: number }
}

export function createHistory(): History {
  const images = new Map<string, KnownImage>()
  const tags = new Map<string, KnownTag>()
  const touched: History['touched'] = { images: new Set(), tags: new Set() }
  const counts = { pushes: 0, tagMoves: 0, deletes: 0, unknown: 0 }

  const imageOf = (image: Image): KnownImage => {
    const key = `${image.repository}@${image.digest}`
    const known = images.get(key) ?? { ...image, may: new Set(['gone']) }
    images.set(key, known)
    touched.images.add(known)
    return known
  }
  const tagOf = (repository: string, tag: string): KnownTag => {
    const key = `${repository}:${tag}`
    const known = tags.get(key) ?? { repository, tag, may: new Set(['']) }
    tags.set(key, known)
    touched.tags.add(known)
    return known
  }
  const now = <T>(known: { may: Set<T> }, value: T, outcome: Outcome) => {
    if (outcome === 'done') known.may.clear()
    known.may.add(value)
  }
  return {
    pushed(image, names, outcome) {
      if (outcome === 'unknown') counts.unknown++
      else if (imageOf(image).may.has('gone')) counts.pushes++
      else counts.tagMoves++
      now(imageOf(image), 'here', outcome)
      for (const name of names) now(tagOf(image.repository, name), image.digest, outcome)
    },
    untagged(repository, tag, outcome) {
      counts[outcome === 'done' ? 'deletes' : 'unknown']++
      now(tagOf(repository, tag), '', outcome)
    },
    deleted(image, outcome) {
      counts[outcome === 'done' ? 'deletes' : 'unknown']++
      now(imageOf(image), 'gone', outcome)
      for (const known of tags.values()) {
        if (known.repository !== image.repository || !known.may.has(image.digest)) continue
        touched.tags.add(known)
        if (outcome === 'done') known.may.delete(image.digest)
        known.may.add('')
      }
    },
    images: () => [...images.values()],
    tags: () => [...tags.values()],
    touched,
    counts,
  }
}
