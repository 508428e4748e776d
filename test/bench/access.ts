import { compileRules, evaluate, type PolicyInput } from '../../lib/policy/evaluate.ts'
import { builtInRules, type Rule } from '../../lib/policy/rule.ts'
import { password } from '../support/process.ts'
import { ask, blobMaker, pushImage } from './load.ts'
import { median, startMcr } from './peers.ts'

/** What deciding costs: the policy with 1,000 rules, a repeated login, and pulls while somebody guesses passwords. */
export async function access(): Promise<void> {
  policy()
  await logins()
}

const nothing = { repositories: [], tags: [], networks: [] }
const rule = (id: number, change: Partial<Rule>): Rule => ({
  id,
  priority: 100,
  description: '',
  effect: 'allow',
  roles: [],
  accountTypes: [],
  actions: ['registry:pull', 'registry:push'],
  repositories: [],
  tags: [],
  networks: [],
  except: nothing,
  ...change,
})

/** 1,000 rules of one kind, none of which but the last fits: every one is looked at. */
function policy(): void {
  const kinds: Record<string, (index: number) => Partial<Rule>> = {
    'a team each: team17/**': (index) => ({ repositories: [`team${index}/**`] }),
    'a robot each: one subject': (index) => ({ subject: `robot:${index}`, repositories: ['**'] }),
    'a role each': (index) => ({ roles: [`role${index}`] }),
    'globs in the middle: */app17/*-x': (index) => ({ repositories: [`*/app${index}/*-x`] }),
    'denies by suffix: **/secret17': (index) => ({ effect: 'deny', repositories: [`**/secret${index}`] }),
    'a network each': (index) => ({ networks: [`10.${index % 250}.${index >> 8}.0/24`] }),
  }
  const input: PolicyInput = {
    subject: 'local:somebody',
    kind: 'human',
    roles: ['developer'],
    action: 'registry:pull',
    repository: 'team999/some/app',
    address: '192.168.1.1',
    now: 1,
  }
  console.log('1,000 rules                              µs for one decision')
  for (const [name, change] of Object.entries(kinds)) {
    const rules = compileRules([
      ...builtInRules({ userContent: true }),
      ...Array.from({ length: 1000 }, (_, index) => rule(index + 1, change(index))),
    ])
    const round = () => {
      const started = performance.now()
      for (let index = 0; index < 1000; index++) evaluate(rules, input)
      return performance.now() - started
    }
    for (let warm = 0; warm < 5; warm++) round()
    console.log(`${name.padEnd(40)} ${median(Array.from({ length: 9 }, round)).toFixed(1)}`)
  }
}

async function logins(): Promise<void> {
  const mcr = await startMcr()
  await mcr.token(['access/app'])
  await pushImage(mcr, 'access/app', 'v1', blobMaker(1000)())
  const basic = (name: string, password: string) => ({
    ...mcr,
    headers: { authorization: `Basic ${btoa(`${name}:${password}`)}` },
  })
  const good = basic('admin', password)
  const token = '/v2/token?scope=repository:access/app:pull'
  await ask(good, 'GET', token)
  const repeated: number[] = []
  const [byPassword, byToken]: [number[], number[]] = [[], []]
  for (let index = 0; index < 500; index++) {
    repeated.push(await timed(() => ask(good, 'GET', token)))
    byPassword.push(await timed(() => ask(good, 'GET', '/v2/')))
    byToken.push(await timed(() => ask(mcr, 'GET', '/v2/')))
  }
  const manifest = '/v2/access/app/manifests/v1'
  const pulls = async (seconds: number) => {
    const times: number[] = []
    for (const end = performance.now() + seconds * 1000; performance.now() < end; )
      times.push(await timed(() => ask(mcr, 'GET', manifest)))
    return times
  }
  const quiet = await pulls(3)
  const statuses = new Map<number, number>()
  let stop = false
  const guessing = Promise.all(
    Array.from({ length: 200 }, async (_, index) => {
      while (!stop) {
        const { status } = await ask(basic(`guess${index}-${Math.random()}`, 'a wrong password'), 'GET', token)
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }),
  )
  const noisy = await pulls(5)
  stop = true
  await guessing
  console.log(`\nrepeated login and a new token, median            ${median(repeated).toFixed(2)} ms`)
  console.log(
    `GET /v2/ by a repeated password, by a token       ${median(byPassword).toFixed(2)} ms, ${median(byToken).toFixed(2)} ms: the login costs the difference`,
  )
  console.log(
    `manifest pull, p99, quiet                         ${percentile(quiet, 0.99).toFixed(2)} ms (${quiet.length} pulls)`,
  )
  console.log(
    `manifest pull, p99, 200 clients guess passwords   ${percentile(noisy, 0.99).toFixed(2)} ms (${noisy.length} pulls)`,
  )
  console.log(
    `what the guessers were told                       ${[...statuses].map(([status, count]) => `${status}: ${count}`).join(', ')}`,
  )
  await mcr.stop()
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  await work()
  return performance.now() - started
}

function percentile(values: readonly number[], part: number): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length * part)] ?? 0
}
