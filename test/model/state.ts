/**
 * The storage protocol as a state: what is committed, what is on the disk, where every actor stands. One digest, two repositories, and as
 * many sessions (uploads, each with its incarnation) as a scenario has. Time is left out: whatever may become cold or stale may be so at
 * once, which is stronger than any window. A process that crashes is one that never moves again, so a crash of a client's request needs
 * no step of its own; whoever works in a loop starts it anew.
 */

export interface Upload {
  state: 'none' | 'open' | 'finishing'
  owner: string
  /** bodies of the committed segments, in order */
  segments: readonly number[]
}

/** What transactions have committed. */
export interface Db {
  /** the incarnation that the digest's row names; 0: no row */
  blob: number
  suspect: boolean
  /** per repository */
  links: readonly ('none' | 'visible' | 'hidden')[]
  manifests: readonly ('none' | 'live' | 'deleted')[]
  /** per session, from 1 */
  uploads: readonly Upload[]
  trash: readonly ('no' | 'without digest' | 'with digest')[]
  /** a backup holds every file that is there */
  pinned: boolean
  /** how many removals of files were counted */
  removals: number
}

/** A directory entry as processes see it, and as it will be after a power cut if nobody syncs the directory. */
interface Entry<T> {
  now: T
  durable: T
}

/** Files. A body is one inode, from 1; under uploads/ each has a name of its own, under blobs/ an incarnation's final name leads to one. */
export interface Disk {
  uploads: readonly Entry<boolean>[]
  finals: readonly Entry<number>[]
  bodies: readonly ('none' | 'dirty' | 'synced' | 'torn')[]
  /** the number of the last removal, noted beside the blobs and synced */
  noted: number
}

/** Where an actor stands, and the one thing that it remembers. */
export interface Local {
  at: string
  seen: number
}

export interface World {
  db: Db
  /** Earlier states of the database that a power cut may bring back: those since the last commit that waited for the disk. */
  lazy: readonly Db[]
  disk: Disk
  actors: readonly Local[]
  /** per repository: somebody was told 201, and nobody deleted it since */
  acknowledged: readonly boolean[]
  /** per repository: how often its manifest was deleted */
  deletes: readonly number[]
  powerCuts: number
  /** the database as somebody copied it, to be put back */
  copy: Db | undefined
  /** the incarnation whose file the disk itself has lost; 0: none */
  damaged: number
}

/** One step of an actor: what it is called, where the actor stands then, and what else it changes. */
export interface Move {
  label: string
  to: string
  seen?: number
  db?: Partial<Db>
  /** the commit does not wait for the disk */
  isLazy?: boolean
  disk?: Disk
  acknowledged?: readonly boolean[]
  deletes?: readonly number[]
  damaged?: number
}

export type Program = (world: World, me: Local) => Move[]
export interface Actor {
  name: string
  program: Program
  /** it works in a loop: a crash makes it start again */
  loops?: true
}

export const none: Upload = { state: 'none', owner: '', segments: [] }

/** A list with one place changed. */
export const put = <T>(list: readonly T[], at: number, value: T): readonly T[] =>
  list.map((old, index) => (index === at ? value : old))

export const entry = <T>(now: T, durable: T): Entry<T> => ({ now, durable })

export function emptyWorld(sessions: number, bodies: number, actors: number): World {
  const fill = <T>(count: number, value: T) => Array.from({ length: count }, () => value)
  return {
    db: {
      blob: 0,
      suspect: false,
      links: ['none', 'none'],
      manifests: ['none', 'none'],
      uploads: fill(sessions + 1, none),
      trash: fill(sessions + 1, 'no' as const),
      pinned: false,
      removals: 0,
    },
    lazy: [],
    disk: {
      uploads: fill(bodies + 1, entry(false, false)),
      finals: fill(sessions + 1, entry(0, 0)),
      bodies: fill(bodies + 1, 'none' as const),
      noted: 0,
    },
    actors: fill(actors, { at: 'start', seen: 0 }),
    acknowledged: [false, false],
    deletes: [0, 0],
    powerCuts: 0,
    copy: undefined,
    damaged: 0,
  }
}

/** The world after an actor's step. */
export function after(world: World, actor: number, move: Move): World {
  const db = move.db ? { ...world.db, ...move.db } : world.db
  return {
    ...world,
    db,
    lazy: move.db ? (move.isLazy ? [...world.lazy, world.db].slice(-3) : []) : world.lazy,
    disk: move.disk ?? world.disk,
    actors: put(world.actors, actor, { at: move.to, seen: move.seen ?? 0 }),
    acknowledged: move.acknowledged ?? world.acknowledged,
    deletes: move.deletes ?? world.deletes,
    damaged: move.damaged ?? world.damaged,
  }
}

/** Every process has ended. Who had not begun may come later: a client that tries again. */
export const stopped = (world: World, actors: readonly Actor[]): readonly Local[] =>
  world.actors.map((local, index) =>
    actors[index]?.loops || local.at === 'start' ? { at: 'start', seen: 0 } : { at: 'end', seen: 0 },
  )

/** Every way in which a power cut can leave the disk and, after lazy commits, the database. */
export function* afterPowerCut(world: World, actors: readonly Actor[]): Generator<World> {
  const { disk } = world
  const open: ((chosen: Disk) => Disk)[] = []
  disk.uploads.forEach(({ now, durable }, at) => {
    if (now !== durable) open.push((chosen) => ({ ...chosen, uploads: put(chosen.uploads, at, entry(durable, durable)) }))
  })
  disk.finals.forEach(({ now, durable }, at) => {
    if (now !== durable) open.push((chosen) => ({ ...chosen, finals: put(chosen.finals, at, entry(durable, durable)) }))
  })
  const settled: Disk = {
    ...disk,
    uploads: disk.uploads.map(({ now }) => entry(now, now)),
    finals: disk.finals.map(({ now }) => entry(now, now)),
    bodies: disk.bodies.map((body) => (body === 'dirty' ? 'torn' : body)),
  }
  const actorsAfter = stopped(world, actors)
  for (const db of [world.db, ...world.lazy])
    for (let choice = 0; choice < 1 << open.length; choice++)
      yield {
        ...world,
        db,
        lazy: [],
        disk: open.reduce((chosen, undo, bit) => (choice & (1 << bit) ? undo(chosen) : chosen), settled),
        actors: actorsAfter,
        powerCuts: world.powerCuts + 1,
      }
}

/** Names states shortly: each part of a state is a number, the same for parts that say the same. */
export function createKeys(): { part(part: object): number; key(world: World): string } {
  const numbers = new Map<string, number>()
  const known = new WeakMap<object, number>()
  const part = (value: object) => {
    const before = known.get(value)
    if (before !== undefined) return before
    const text = JSON.stringify(value)
    const number = numbers.get(text) ?? numbers.size
    numbers.set(text, number)
    known.set(value, number)
    return number
  }
  return {
    part,
    key({ db, lazy, disk, actors, acknowledged, deletes, powerCuts, copy, damaged }) {
      let text = `${part(db)} ${part(disk)} ${part(acknowledged)} ${part(deletes)} ${powerCuts}${damaged}`
      for (const actor of actors) text += ` ${part(actor)}`
      for (const old of lazy) text += `,${part(old)}`
      if (copy) text += `c${part(copy)}`
      return text
    },
  }
}
