import { isWhole, unlinkFinal } from './disk.ts'
import { deleter, finisher, marker, nameOf, type Push, push } from './requests.ts'
import type { Rules } from './rules.ts'
import type { Model } from './search.ts'
import { type Actor, after, afterPowerCut, createKeys, emptyWorld, stopped, type World } from './state.ts'
import { backup, collector, expiry, reaper, sweeper } from './upkeep.ts'

/** A small world in which part of the protocol can go wrong. `slice`: small enough to be searched whole in a few seconds. */
export interface Scenario {
  name: string
  slice: boolean
  sessions: number
  /** the session of each body, from body 1 */
  bodies: readonly number[]
  powerCuts: number
  /** the disk itself may lose the file of the stored copy, once */
  losesFiles?: true
  /** somebody copies the database, once, and puts it back later */
  putsBack?: true
  actors(who: ReturnType<typeof cast>): Actor[]
}

const named = (name: string, program: Actor['program']): Actor => ({ name, program })
const loop = (name: string, program: Actor['program']): Actor => ({ name, program, loops: true })

const single = (session: number, repository: number, body: number, first?: Push['first']): Push => ({
  session,
  repository,
  patch: body,
  own: 0,
  joined: 0,
  first,
})
const monolithic = (session: number, repository: number, body: number, first?: Push['first']): Push => ({
  session,
  repository,
  patch: 0,
  own: body,
  joined: 0,
  first,
})

/** The actors of a scenario, by short names. */
function cast(rules: Rules, sessionOf: readonly number[], bodiesOf: readonly (readonly number[])[]) {
  return {
    push: (plan: Push) => named(`push ${plan.session}`, push(plan, rules)),
    again: (plan: Push) => named('second PUT', finisher(plan, rules)),
    deletes: named('deletes', deleter(0, rules)),
    reader: loop('reader', marker(rules)),
    collector: loop('collector', collector(rules)),
    reaper: loop('reaper', reaper(bodiesOf, rules)),
    reaperOnce: named('reaper', reaper(bodiesOf, rules, { counts: true })),
    expiry: loop('expiry', expiry(bodiesOf, rules)),
    sweeper: loop('sweeper', sweeper(sessionOf, bodiesOf, rules)),
    backup: named('backup', backup(rules)),
  }
}

export const scenarios: readonly Scenario[] = [
  {
    name: 'two pushes beside collection',
    slice: true,
    sessions: 2,
    bodies: [1, 2],
    powerCuts: 1,
    actors: (who) => [who.push(single(1, 0, 1)), who.push(monolithic(2, 0, 2, 'HEAD')), who.collector, who.reaper],
  },
  {
    name: 'two pushes beside expiry and sweep',
    slice: true,
    sessions: 2,
    bodies: [1, 2],
    powerCuts: 0,
    actors: (who) => [who.push(single(1, 0, 1)), who.push(monolithic(2, 0, 2)), who.expiry, who.sweeper, who.collector],
  },
  {
    name: 'a PUT that comes twice, of one segment',
    slice: true,
    sessions: 1,
    bodies: [1],
    powerCuts: 2,
    actors: (who) => [who.push(single(1, 0, 1)), who.again(single(1, 0, 1)), who.collector, who.reaper, who.expiry, who.sweeper],
  },
  {
    name: 'a PUT that comes twice, of joined segments',
    slice: true,
    sessions: 1,
    bodies: [1, 1, 1, 1, 1],
    powerCuts: 1,
    actors: (who) => [
      who.push({ session: 1, repository: 0, patch: 1, own: 2, joined: 3 }),
      who.again({ session: 1, repository: 0, patch: 1, own: 4, joined: 5 }),
      who.expiry,
    ],
  },
  {
    name: 'joined segments beside all upkeep',
    slice: true,
    sessions: 1,
    bodies: [1, 1, 1],
    powerCuts: 1,
    actors: (who) => [
      who.push({ session: 1, repository: 0, patch: 1, own: 2, joined: 3 }),
      who.collector,
      who.reaper,
      who.expiry,
      who.sweeper,
    ],
  },
  {
    name: 'mount, delete and undelete',
    slice: true,
    sessions: 2,
    bodies: [1, 2],
    powerCuts: 0,
    actors: (who) => [
      who.push(monolithic(1, 0, 1)),
      who.push(monolithic(2, 1, 2, 'mount')),
      who.deletes,
      who.collector,
      who.reaper,
    ],
  },
  {
    name: 'a backup beside collection',
    slice: true,
    sessions: 1,
    bodies: [1],
    powerCuts: 1,
    actors: (who) => [who.push(monolithic(1, 0, 1)), who.deletes, who.backup, who.collector, who.reaper, who.sweeper],
  },
  {
    name: 'an older database is put back',
    slice: true,
    sessions: 1,
    bodies: [1],
    powerCuts: 0,
    putsBack: true,
    // Counted removals never end while one loop may die and begin again: one collection is enough to go wrong.
    actors: (who) => [who.push(monolithic(1, 0, 1)), who.collector, who.reaperOnce],
  },
  {
    name: 'a stored file is lost and pushed again',
    slice: true,
    sessions: 2,
    bodies: [1, 2],
    powerCuts: 0,
    losesFiles: true,
    actors: (who) => [who.push(monolithic(1, 0, 1)), who.push(monolithic(2, 0, 2)), who.reader, who.collector, who.reaper],
  },
  {
    name: 'two pushes of one digest beside all upkeep',
    slice: false,
    sessions: 2,
    bodies: [1, 2],
    powerCuts: 1,
    actors: (who) => [
      who.push(single(1, 0, 1)),
      who.push(monolithic(2, 0, 2, 'HEAD')),
      who.collector,
      who.reaper,
      who.expiry,
      who.sweeper,
    ],
  },
  {
    name: 'push, mount, delete and undelete beside collection and sweep, a power cut',
    slice: false,
    sessions: 2,
    bodies: [1, 2],
    powerCuts: 1,
    actors: (who) => [
      who.push(single(1, 0, 1)),
      who.push(monolithic(2, 1, 2, 'mount')),
      who.deletes,
      who.collector,
      who.reaper,
      who.sweeper,
    ],
  },
  {
    name: 'three pushes beside collection',
    slice: false,
    sessions: 3,
    bodies: [1, 2, 3],
    powerCuts: 0,
    actors: (who) => [
      who.push(single(1, 0, 1)),
      who.push(monolithic(2, 0, 2, 'HEAD')),
      who.push(monolithic(3, 1, 3, 'mount')),
      who.collector,
      who.reaper,
    ],
  },
]

/** The scenario as a graph: every actor's steps, crashes of those that loop, power cuts, files that the disk loses. */
export function modelOf(scenario: Scenario, rules: Rules): Model<World> {
  const sessionOf = [0, ...scenario.bodies]
  const bodiesOf = Array.from({ length: scenario.sessions + 1 }, (_, session) =>
    sessionOf.flatMap((owner, body) => (body > 0 && owner === session ? [body] : [])),
  )
  const actors = scenario.actors(cast(rules, sessionOf, bodiesOf))
  const keys = createKeys()
  const cleaned = new Map<string, string | undefined>()
  /** Expiry, collection, reaping and a sweep, run to their ends, must leave the file that a manifest needs and nothing else. */
  const leak = (world: World): string | undefined => {
    if (rules.has('the digest is the path')) return undefined
    const name = `${keys.part(world.db)} ${keys.part(world.disk)}`
    if (!cleaned.has(name)) cleaned.set(name, leftAfter(world, sessionOf, bodiesOf, rules))
    return cleaned.get(name)
  }
  return {
    initial: emptyWorld(scenario.sessions, scenario.bodies.length, actors.length),
    key: keys.key,
    moves(world) {
      const reached: [string, World][] = []
      actors.forEach(({ name, program, loops }, index) => {
        const me = world.actors[index]
        if (!me) return
        for (const move of program(world, me)) reached.push([`${name}: ${move.label}`, after(world, index, move)])
        if (loops && me.at !== 'start') reached.push([`${name}: CRASH`, after(world, index, { label: '', to: 'start' })])
      })
      if (world.powerCuts < scenario.powerCuts) for (const cut of afterPowerCut(world, actors)) reached.push(['POWER CUT', cut])
      const { blob } = world.db
      if (scenario.losesFiles && world.damaged === 0 && blob !== 0)
        reached.push(['THE DISK LOSES THE FILE', { ...world, damaged: blob, disk: unlinkFinal(world.disk, nameOf(rules, blob)) }])
      if (scenario.putsBack && !world.copy) reached.push(['THE DATABASE IS COPIED', { ...world, copy: world.db }])
      if (scenario.putsBack && world.copy && world.copy !== world.db) {
        const isOlder =
          world.disk.noted > world.copy.removals && !rules.has('a database is started without comparing the numbers')
        const back = { ...world, db: world.copy, lazy: [], actors: stopped(world, actors), acknowledged: [false, false] }
        if (!isOlder) reached.push(['THE COPY IS PUT BACK', back])
      }
      return reached
    },
    wrong: (world) => broken(world, scenario, rules) ?? leak(world),
  }
}

/** The invariants (docs/proof.md), in words. */
function broken({ db, disk, actors, acknowledged, damaged }: World, scenario: Scenario, rules: Rules): string | undefined {
  if (actors.some(({ at }) => at === 'incomplete')) return 'a backup lacks the file that its database names'
  if (db.blob !== 0 && db.blob !== damaged && !isWhole(disk, nameOf(rules, db.blob))) {
    return disk.finals[nameOf(rules, db.blob)]?.now
      ? 'a row names a file that is not whole'
      : 'a row names a file that is not there'
  }
  for (const [repository, manifest] of db.manifests.entries()) {
    if (manifest !== 'none' && (db.links[repository] === 'none' || db.blob === 0))
      return `a ${manifest} manifest needs a blob that is not there`
    if (manifest === 'live' && db.links[repository] === 'hidden') return 'a live manifest needs a blob that is hidden'
    if (acknowledged[repository] && manifest !== 'live') return 'an acknowledged manifest is lost'
  }
  if (db.blob === 0 && db.links.some((link) => link !== 'none')) return 'a link without a blob'
  for (const [session, state] of db.trash.entries())
    if (state !== 'no' && db.blob === session && !rules.has('the digest is the path')) return 'a live incarnation is in the trash'
  // A session of one segment may have been renamed; of several, each must be where the row says.
  if (scenario.bodies.length > scenario.sessions)
    for (const { segments } of db.uploads)
      for (const body of segments)
        if (!disk.uploads[body]?.now || disk.bodies[body] === 'torn') return 'a session claims bytes that are not there'
  return undefined
}

/** Upkeep, each part of it run to its end from here. Shape: what it leaves that it should not. */
function leftAfter(
  start: World,
  sessionOf: readonly number[],
  bodiesOf: readonly (readonly number[])[],
  rules: Rules,
): string | undefined {
  const idle = { at: 'start', seen: 0 }
  let world: World = { ...start, db: { ...start.db, pinned: false }, actors: [idle] }
  const step = (program: Actor['program'], which = 0) => {
    const move = program(world, world.actors[0] ?? idle)[which]
    if (move) world = after(world, 0, move)
    return move !== undefined
  }
  for (const program of [expiry(bodiesOf, rules), collector(rules), reaper(bodiesOf, rules)]) {
    while (step(program)) {}
    world = { ...world, actors: [idle] }
  }
  const sweep = sweeper(sessionOf, bodiesOf, rules)
  for (const listed of sweep(world, idle)) {
    world = after(world, 0, listed)
    while (world.actors[0]?.at !== 'start') step(sweep)
  }
  const { db, disk } = world
  if (db.uploads.some(({ state }) => state !== 'none')) return 'a session is never forgotten'
  if (disk.uploads.some(({ now }) => now)) return 'a segment is left that nothing will ever remove'
  if (disk.finals.some(({ now }, session) => now && session !== db.blob)) return 'a file is left that nothing will ever remove'
  if (db.blob !== 0 && !db.manifests.includes('live')) return 'a blob is left that nothing needs'
  return undefined
}
