// Every actor paused before every call it makes of the database and the files, every other one run to its end meanwhile, then the first one
// goes on: over the real code, a real database, real files. `--every N`: only each Nth case, from `--from`.
import { cpSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type ActName, acts, type Corner, cornerOf, type SeedName, seeds } from './actors.ts'
import { brokenInvariants, brokenPromises, leftovers } from './checks.ts'
import { createGate, gated } from './gate.ts'
import { openWorld } from './world.ts'

const { values } = parseArgs({
  options: {
    every: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
    /** patterns: of who is paused over what, and of the whole name of a case */
    who: { type: 'string', default: '' },
    only: { type: 'string', default: '' },
  },
})

/** Who is paused, over what. */
const paused: [act: ActName, seed: SeedName][] = [
  ['pushes in one body', 'nothing'],
  ['asks and pushes', 'a loose blob'],
  ['asks and pushes', 'an image'],
  ['pushes one PATCH', 'nothing'],
  ['pushes one PATCH', 'garbage in the trash'],
  ['pushes PATCH and PUT, joined', 'a deleted image'],
  ['finishes the open upload', 'an open upload'],
  ['finishes the open upload', 'a complete open upload'],
  ['appends to the open upload', 'an open upload'],
  ['mounts', 'a loose blob'],
  ['deletes manifest and blob', 'an image'],
  ['undeletes', 'a deleted image'],
  ['pulls', 'an image'],
  ['collects', 'a loose blob'],
  ['collects', 'a deleted image'],
  ['collects', 'a deleted repository'],
  ['undeletes the repository', 'a deleted repository'],
  ['reaps', 'garbage in the trash'],
  ['sweeps', 'an open upload'],
  ['sweeps', 'nothing'],
  ['expires', 'an open upload'],
  ['expires', 'a complete open upload'],
]
/** An intruder that claims an upload sees a claim of the paused one as stale. */
const clockAheadMs = 120_000
/** Cases that failed whose database and files are copied as they were then: the next case works on. */
const keptMost = 5

const world = await openWorld()
process.once('uncaughtException', (error) => {
  console.error(error)
  console.error(`interleave: the test itself ended; kept in ${world.root}`)
  process.exit(1)
})
let serial = 0
const corner = async (seed: SeedName): Promise<Corner> => {
  const made = cornerOf(`case-${serial++}`)
  await seeds[seed](world, made)
  return made
}

// What each paused actor calls when nobody comes between: the list of its pauses.
const cases: { act: ActName; seed: SeedName; at: number; call: string; intruder: ActName }[] = []
for (const [act, seed] of paused) {
  if (!new RegExp(values.who).test(`${act} over ${seed}`)) continue
  const gate = createGate()
  const own = await corner(seed)
  await acts[act](world, gated(world.ctx, gate), own)
  await leftovers(world, own)
  for (const [at, call] of gate.calls.entries())
    for (const intruder of Object.keys(acts) as ActName[]) {
      const needsUpload = /open upload/.test(intruder)
      if (!needsUpload || /open upload/.test(seed)) cases.push({ act, seed, at, call, intruder })
    }
}

let failed = 0
let ran = 0
const started = Date.now()
for (const [index, { act, seed, at, call, intruder }] of cases.entries()) {
  if (index % Number(values.every) !== Number(values.from) % Number(values.every)) continue
  const name = `${act} over ${seed}, paused before call ${at} (${call}); meanwhile: ${intruder}`
  if (!new RegExp(values.only).test(name)) continue
  ran++
  const wrong: string[] = []
  const own = await corner(seed)
  const gate = createGate(at)
  const trouble = (who: string) => (error: Error) => {
    wrong.push(`${who}: ${error.message}${error.cause ? ` (${error.cause})` : ''}`)
  }
  const victim = acts[act](world, gated(world.ctx, gate), own).catch(trouble('paused'))
  await Promise.race([gate.reached, victim])
  // Also now, in the middle of it: a process may die here.
  wrong.push(...(await brokenInvariants(world)))
  await acts[intruder](world, gated(world.ctx, createGate(), clockAheadMs), own).catch(trouble('intruder'))
  gate.release()
  await victim
  wrong.push(...(await brokenInvariants(world)), ...(await brokenPromises(world, own)))
  const kept = `${world.root}.failed-${index}`
  const keep = () => cpSync(world.root, kept, { recursive: true })
  const early = wrong.length > 0 && failed < keptMost
  // What is left at the end is deleted on the way there.
  if (early) keep()
  wrong.push(...(await leftovers(world, own)))
  if (wrong.length === 0) continue
  if (!early && failed < keptMost) keep()
  failed++
  console.log(`FAILED: ${name}${failed <= keptMost ? `; as it was then in ${kept}` : ''}`)
  for (const line of new Set(wrong)) console.log(`    ${line}`)
}
await world.close(failed > 0)
const took = `${Math.round((Date.now() - started) / 1000)} s`
console.log(
  `interleave: ${ran} of ${cases.length} cases in ${took}: ${failed === 0 ? 'all hold' : `${failed} FAILED; kept in ${world.root}`}`,
)
process.exitCode = failed === 0 ? 0 : 1
