import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { grants, parseScopes } from '../../lib/auth/scope.ts'
import type { Action } from '../../lib/policy/actions.ts'
import { compileRules, evaluate, type PolicyInput } from '../../lib/policy/evaluate.ts'
import { compileGlob } from '../../lib/policy/glob.ts'
import { builtInRules, type Rule } from '../../lib/policy/rule.ts'

const numRuns = Number(process.env.MCR_TEST_RUNS ?? 100_000)

/** Globs by the slowest means there is. */
function referenceGlob(pattern: string, text: string): boolean {
  if (pattern === '') return text === ''
  if (pattern.startsWith('**'))
    return Array.from({ length: text.length + 1 }, (_, index) => index).some((index) =>
      referenceGlob(pattern.slice(2), text.slice(index)),
    )
  if (pattern.startsWith('*')) {
    for (let index = 0; index <= text.length; index++) {
      if (referenceGlob(pattern.slice(1), text.slice(index))) return true
      if (text[index] === '/') return false
    }
    return false
  }
  if (text === '') return false
  if (pattern[0] === '?') return text[0] !== '/' && referenceGlob(pattern.slice(1), text.slice(1))
  return pattern[0] === text[0] && referenceGlob(pattern.slice(1), text.slice(1))
}

/** Networks by their bits, written out. */
function referenceNetwork(cidr: string, address: string | undefined): boolean {
  const bits = (text: string): string => {
    const plain = text.replace(/^::ffff:/, '')
    if (plain.includes('.'))
      return plain
        .split('.')
        .map((part) => Number(part).toString(2).padStart(8, '0'))
        .join('')
    const [head = '', tail = ''] = plain.split('::')
    const parts = (half: string) => (half === '' ? [] : half.split(':'))
    const zeros = Array(8 - parts(head).length - parts(tail).length).fill('0')
    return [...parts(head), ...zeros, ...parts(tail)]
      .map((part) => Number.parseInt(part, 16).toString(2).padStart(16, '0'))
      .join('')
  }
  if (address === undefined || address === 'unix') return false
  const [network = '', length] = cidr.split('/')
  const own = bits(network)
  const from = bits(address)
  return own.length === from.length && from.startsWith(own.slice(0, Number(length ?? own.length)))
}

/** The rules' meaning, said again without any cleverness. */
function reference(rules: readonly Rule[], input: PolicyInput): boolean {
  const applies = (rule: Rule) => {
    const implied = rule.effect === 'allow' && rule.actions.includes('registry:push') && input.action === 'registry:overwrite'
    if (!rule.actions.includes(input.action) && !implied) return false
    if (rule.expiresAt !== undefined && rule.expiresAt <= input.now) return false
    if (rule.accountTypes.length === 0 ? input.kind === 'anonymous' : !rule.accountTypes.includes(input.kind)) return false
    if (rule.subject !== undefined && rule.subject !== input.subject) return false
    if (rule.roles.length > 0 && !rule.roles.some((role) => input.roles.includes(role))) return false
    if (
      rule.repositories.length > 0 &&
      !(input.repository !== undefined && rule.repositories.some((glob) => referenceGlob(glob, input.repository as string)))
    )
      return false
    if (
      input.repository !== undefined &&
      rule.except.repositories.some((glob) => referenceGlob(glob, input.repository as string))
    )
      return false
    const within = (networks: readonly string[]) => networks.some((cidr) => referenceNetwork(cidr, input.address))
    if (rule.networks.length > 0 && !within(rule.networks)) return false
    if (within(rule.except.networks)) return false
    if (!['registry:push', 'registry:overwrite', 'registry:delete'].includes(input.action)) return true
    if (input.tag !== undefined && rule.except.tags.some((glob) => referenceGlob(glob, input.tag as string))) return false
    if (rule.tags.length > 0) {
      if (input.tag === undefined) return rule.effect === 'allow'
      return rule.tags.some((glob) => referenceGlob(glob, input.tag as string))
    }
    return true
  }
  const matching = rules.filter(applies)
  return !matching.some((rule) => rule.effect === 'deny') && matching.some((rule) => rule.effect === 'allow')
}

const name = fc.stringMatching(/^[ab]{1,2}(\/[ab]{1,2}){0,2}$/)
const glob = fc.stringMatching(/^(\*\*|[ab*?/]){1,5}$/)
const action = fc.constantFrom<Action>(
  'registry:pull',
  'registry:push',
  'registry:delete',
  'registry:overwrite',
  'registry:catalog',
)
const some = <T>(item: fc.Arbitrary<T>) => fc.array(item, { maxLength: 2 })
const network = fc.constantFrom(
  '10.0.0.0/8',
  '10.1.0.0/16',
  '10.1.2.3',
  '10.1.2.0/23',
  '0.0.0.0/0',
  'fd00::/8',
  'fd00:1::/33',
  '::/0',
)
const rule: fc.Arbitrary<Rule> = fc.record({
  id: fc.nat(),
  priority: fc.integer({ min: 1, max: 5 }),
  description: fc.constant(''),
  effect: fc.constantFrom('allow' as const, 'deny' as const),
  roles: some(fc.constantFrom('user', 'admin', 'ci')),
  accountTypes: some(fc.constantFrom('human' as const, 'system' as const, 'anonymous' as const)),
  subject: fc.option(fc.constantFrom('s1', 's2'), { nil: undefined }),
  actions: fc.array(action, { minLength: 1, maxLength: 3 }),
  repositories: some(glob),
  tags: some(glob),
  networks: some(network),
  except: fc.record({ repositories: some(glob), tags: some(glob), networks: some(network) }),
  expiresAt: fc.option(fc.integer({ min: 0, max: 10 }), { nil: undefined }),
  message: fc.constant(undefined),
})
const input: fc.Arbitrary<PolicyInput> = fc.record({
  subject: fc.constantFrom('s1', 's2', 's3'),
  kind: fc.constantFrom('human' as const, 'system' as const, 'anonymous' as const),
  roles: some(fc.constantFrom('user', 'admin', 'ci')),
  action,
  repository: fc.option(name, { nil: undefined }),
  tag: fc.option(fc.stringMatching(/^[ab]{1,3}$/), { nil: undefined }),
  address: fc.option(
    fc.constantFrom(
      '10.1.2.3',
      '10.1.3.4',
      '10.2.0.1',
      '192.168.0.1',
      '::ffff:10.1.2.3',
      'fd00:1::1',
      'fd00:1:8000::1',
      '2001:db8::1',
      'unix',
    ),
    { nil: undefined },
  ),
  now: fc.constant(5),
})

test(`${numRuns} random rule sets and questions: the evaluator agrees with a plain reading of the rules`, () => {
  fc.assert(
    fc.property(fc.array(rule, { maxLength: 8 }), input, fc.boolean(), (rules, question, userContent) => {
      const all = [...builtInRules({ userContent }), ...rules]
      assert.equal(evaluate(compileRules(all), question).allow, reference(all, question))
    }),
    { numRuns },
  )
})

test('globs agree with the slow matcher, and hostile ones end', () => {
  fc.assert(
    fc.property(glob, fc.stringMatching(/^[ab/]{0,6}$/), (pattern, text) => {
      assert.equal(compileGlob(pattern)(text), referenceGlob(pattern, text), `${pattern} on ${text}`)
    }),
    { numRuns },
  )
  assert.equal(compileGlob('*a'.repeat(60))('a'.repeat(59)), false)
  assert.equal(compileGlob('**a'.repeat(60))(`${'a/'.repeat(120)}b`), false)
  assert.ok(
    compileGlob('[a-c]x')('bx') &&
      !compileGlob('[^a-c]x')('bx') &&
      compileGlob('\\*')('*') &&
      !compileGlob('\\*')('a') &&
      !compileGlob('[/]')('/'),
  )
  for (const bad of ['[', 'a\\', '[a', '[]']) assert.throws(() => compileGlob(bad), /glob/, bad)
})

test('scopes: whatever the text, nothing is granted that was not asked in so many words', () => {
  fc.assert(
    fc.property(fc.array(fc.stringMatching(/^[a-z:,* ()/.]{0,40}$/), { maxLength: 4 }), (values) => {
      const access = parseScopes(values)
      for (const entry of access) {
        assert.ok(['repository', 'registry'].includes(entry.type))
        for (const verb of entry.actions) assert.ok(values.some((value) => value.includes(entry.name) && value.includes(verb)))
      }
    }),
    { numRuns: Math.ceil(numRuns / 4) },
  )
  const star = parseScopes(['repository:a/b:*'])
  assert.ok(
    grants(star, 'repository', 'a/b', 'delete') &&
      !grants(star, 'repository', 'a', 'pull') &&
      !grants(star, 'registry', 'a/b', '*'),
  )
})
