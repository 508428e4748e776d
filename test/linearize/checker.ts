/** One operation on a register, as its client saw it. Times are of one clock. */
export interface Operation<C> {
  call: C
  /** when it was sent, and when its answer was there; Infinity: no answer came, so it may happen at any time from `invoked` on, or never */
  invoked: number
  completed: number
}

/** What a register does with a call: the states in which its answer can be true lead to a state; undefined where it cannot be. */
export type Step<C, S> = (state: S, call: C, isKnown: boolean) => { state: S } | undefined

interface Event {
  operation: number
  kind: 'call' | 'return'
  before: Event | undefined
  after: Event | undefined
  /** of a call: its return */
  match?: Event
}

/**
 * Whether operations can be put in an order that the register allows, each between its call and its answer (Wing and Gong's search with
 * Lowe's memory of configurations). An operation without an answer may be left out, or put anywhere after its call: a commit whose process was killed may become visible
 * long after, so it stays open to the end of the history.
 * Shape: undefined when there is such an order; else how many operations the best attempt could place, and the first that could not be.
 */
export function check<C, S>(
  operations: readonly Operation<C>[],
  initial: S,
  step: Step<C, S>,
): { placed: number; stuck: Operation<C> } | undefined {
  const known = operations.filter(({ completed }) => completed !== Number.POSITIVE_INFINITY).length
  const head: Event = { operation: -1, kind: 'call', before: undefined, after: eventsOf(operations) }
  if (head.after) head.after.before = head
  const linearized = new Uint32Array(Math.ceil(operations.length / 32))
  const remembered = new Set<string>()
  const placed: { event: Event; state: S }[] = []
  let best = { placed: -1, stuck: 0 }
  let state = initial
  let left = known
  let at = head.after
  while (left > 0) {
    if (!at) throw new Error('a history without its end')
    const { completed, call } = operations[at.operation] as Operation<C>
    const isKnown = completed !== Number.POSITIVE_INFINITY
    if (at.kind === 'call') {
      const next = step(state, call, isKnown)
      const [word, bit] = [at.operation >>> 5, 1 << (at.operation & 31)]
      if (next) {
        linearized[word] = (linearized[word] ?? 0) | bit
        const name = `${linearized.join()} ${next.state}`
        if (!remembered.has(name)) {
          remembered.add(name)
          placed.push({ event: at, state })
          state = next.state
          if (isKnown) left--
          lift(at)
          at = head.after
          continue
        }
        linearized[word] &= ~bit
      }
      at = at.after
      continue
    }
    // An answer whose operation was not placed: what was placed last was wrong.
    if (placed.length > best.placed) best = { placed: placed.length, stuck: at.operation }
    const last = placed.pop()
    if (!last) return { placed: best.placed, stuck: operations[best.stuck] as Operation<C> }
    state = last.state
    const { operation } = last.event
    linearized[operation >>> 5] = (linearized[operation >>> 5] ?? 0) & ~(1 << (operation & 31))
    if ((operations[operation] as Operation<C>).completed !== Number.POSITIVE_INFINITY) left++
    unlift(last.event)
    at = last.event.after
  }
  return undefined
}

/** Calls and returns by time, as a list; of one moment calls come first, which allows the most. */
function eventsOf(operations: readonly Operation<unknown>[]): Event | undefined {
  const events = operations.flatMap(({ invoked, completed }, operation) => {
    const back: Event & { time: number } = { operation, kind: 'return', time: completed, before: undefined, after: undefined }
    return [{ operation, kind: 'call' as const, time: invoked, match: back, before: undefined, after: undefined }, back]
  })
  events.sort((a, b) => a.time - b.time || (a.kind === b.kind ? a.operation - b.operation : a.kind === 'call' ? -1 : 1))
  events.forEach((event: Event, index) => {
    event.before = events[index - 1]
    event.after = events[index + 1]
  })
  return events[0]
}

function lift(call: Event): void {
  for (const event of [call, call.match as Event]) {
    if (event.before) event.before.after = event.after
    if (event.after) event.after.before = event.before
  }
}

function unlift(call: Event): void {
  for (const event of [call.match as Event, call]) {
    if (event.before) event.before.after = event
    if (event.after) event.after.before = event
  }
}
