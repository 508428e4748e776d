// The storage protocol, searched exhaustively: every interleaving of its actors, crashes, power cuts. `--slice`: what CI runs.
import { parseArgs } from 'node:util'
import { broken } from './broken.ts'
import { modelOf, scenarios } from './scenarios.ts'
import { search } from './search.ts'

const { values } = parseArgs({
  options: {
    slice: { type: 'boolean', default: false },
    limit: { type: 'string', default: '12000000' },
    only: { type: 'string', default: '' },
  },
})
const limit = Number(values.limit)
let failed = 0
const say = (line: string) => console.log(line)
const seconds = (since: NodeJS.CpuUsage) => `${(process.cpuUsage(since).user / 1e6).toFixed(1)} s of processor time`

for (const scenario of scenarios) {
  if ((values.slice && !scenario.slice) || !scenario.name.includes(values.only)) continue
  const started = process.cpuUsage()
  const { states, transitions, depth, complete, violation } = search(modelOf(scenario, new Set()), limit)
  if (!complete) failed++
  const verdict = violation ? `VIOLATION: ${violation.what}` : complete ? 'holds' : `not finished: more than ${limit} states`
  say(`${scenario.name}: ${states} states, ${transitions} transitions, depth ${depth}: ${verdict} (${seconds(started)})`)
  for (const step of violation?.path ?? []) say(`    ${step}`)
}
for (const [defects, name] of broken) {
  const scenario = scenarios.find((one) => one.name === name)
  if (!scenario) throw new Error(`there is no scenario ${name}`)
  if (!defects.join().includes(values.only) && !name.includes(values.only)) continue
  const { states, violation } = search(modelOf(scenario, new Set(defects)), limit)
  if (!violation) failed++
  say(
    violation
      ? `without its rule, ${defects.join(' and ')}: rejected after ${states} states by ${violation.path.length} steps: ${violation.what}`
      : `NOT REJECTED: ${defects.join(' and ')} (${states} states of "${name}")`,
  )
  if (!values.slice) for (const step of violation?.path ?? []) say(`    ${step}`)
}
say(failed === 0 ? 'the protocol holds, and every broken variant of it is rejected' : `${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
