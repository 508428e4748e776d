/** A protocol as a graph of states. `key` names a state: two with one key are one. */
export interface Model<S> {
  initial: S
  moves(state: S): readonly (readonly [label: string, next: S])[]
  key(state: S): string
  /** What is wrong in a state, in words; undefined while nothing is. */
  wrong(state: S): string | undefined
}

export interface Verdict {
  states: number
  transitions: number
  /** longest of the shortest paths */
  depth: number
  /** every state was visited */
  complete: boolean
  /** the first wrong state, by one of the shortest ways to it */
  violation?: { what: string; path: string[] }
}

/**
 * Visits every state, breadth first, so that the first wrong one is found by a shortest path. Only the frontier is kept as states; the
 * rest are keys and the step by which each was reached.
 */
export function search<S>({ initial, moves, key, wrong }: Model<S>, limit: number): Verdict {
  const seen = new Map<string, number>([[key(initial), 0]])
  const cameFrom: number[] = [-1]
  const by: string[] = ['']
  let frontier: { state: S; index: number }[] = [{ state: initial, index: 0 }]
  let transitions = 0
  let depth = 0
  const pathTo = (end: number) => {
    const path: string[] = []
    for (let at = end; at > 0; at = cameFrom[at] as number) path.unshift(by[at] as string)
    return path
  }
  const report = (complete: boolean, violation?: Verdict['violation']): Verdict => ({
    states: seen.size,
    transitions,
    depth,
    complete,
    violation,
  })
  while (frontier.length > 0) {
    const next: typeof frontier = []
    for (const { state, index } of frontier)
      for (const [label, reached] of moves(state)) {
        transitions++
        const name = key(reached)
        if (seen.has(name)) continue
        const at = cameFrom.length
        seen.set(name, at)
        cameFrom.push(index)
        by.push(label)
        const what = wrong(reached)
        if (what !== undefined) return report(false, { what, path: pathTo(at) })
        if (at >= limit) return report(false)
        next.push({ state: reached, index: at })
      }
    frontier = next
    if (next.length > 0) depth++
  }
  return report(true)
}
