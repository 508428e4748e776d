import assert from 'node:assert/strict'
import { argon2Sync } from 'node:crypto'
import { test } from 'node:test'
import { createPasswords, createTurns } from '../../runtime/passwords.ts'

const passwords = createPasswords()

test('a hash is a PHC string with the parameters in it, salted anew each time', async () => {
  const [one, two] = await Promise.all([passwords.hash('secret'), passwords.hash('secret')])
  assert.match(one, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/)
  assert.notEqual(one, two)
})

test('the password that made a hash verifies, others do not', async () => {
  const hash = await passwords.hash('pässwörd ✓')
  assert.equal(await passwords.verify('pässwörd ✓', hash, 'a'), true)
  assert.equal(await passwords.verify('pässwörd ✗', hash, 'a'), false)
  assert.equal(await passwords.verify('', hash, 'a'), false)
})

test('parameters come from the hash, so that older or foreign ones still verify', async () => {
  const nonce = Buffer.from('0123456789abcdef')
  const tag = argon2Sync('argon2id', { message: Buffer.from('old'), nonce, parallelism: 2, tagLength: 24, memory: 64, passes: 3 })
  const hash = `$argon2id$v=19$m=64,t=3,p=2$${nonce.toString('base64').replace(/=+$/, '')}$${tag.toString('base64')}`
  assert.equal(await passwords.verify('old', hash, 'a'), true)
  assert.equal(await passwords.verify('new', hash, 'a'), false)
})

test('what is no hash verifies nothing', async () => {
  for (const text of [
    '',
    'x',
    '$argon2i$v=19$m=64,t=3,p=2$AAAAAAAAAAA$AAAAAAAAAAAAAAAA',
    '$argon2id$v=19$m=19456,t=2,p=1$$',
    '$2b$10$abc',
  ])
    assert.equal(await passwords.verify('x', text, 'a'), false, text)
})

test('a password over 1,024 bytes is refused when set and wrong when tried', async () => {
  const longest = 'ä'.repeat(512)
  assert.equal(await passwords.verify(longest, await passwords.hash(longest), 'a'), true)
  await assert.rejects(passwords.hash(`${longest}x`), { code: 'PASSWORD_TOO_LONG' })
  assert.equal(await passwords.verify(`${longest}x`, await passwords.hash('y'), 'a'), false)
})

/** Work that ends when it is told to, with the order in which it began. */
function steps() {
  const began: string[] = []
  const ends: (() => void)[] = []
  let running = 0
  let most = 0
  const work = (name: string) => async () => {
    began.push(name)
    most = Math.max(most, ++running)
    await new Promise<void>((resolve) => ends.push(resolve))
    running--
    return name
  }
  const finish = async () => {
    while (ends.length > 0) {
      ends.shift()?.()
      await new Promise(setImmediate)
    }
  }
  return { began, work, finish, most: () => most }
}

test('two run at a time, and the waiting take turns by key', async () => {
  const inTurn = createTurns(2, 64)
  const { began, work, finish, most } = steps()
  const all = ['a1', 'a2', 'a3', 'a4', 'a5', 'b1', 'c1', 'b2'].map((name) => inTurn(name.slice(0, 1), work(name)))
  await finish()
  assert.deepEqual(began, ['a1', 'a2', 'a3', 'b1', 'c1', 'a4', 'b2', 'a5'])
  assert.equal(most(), 2)
  assert.equal((await Promise.all(all)).length, 8)
})

test('a full queue turns away who fills it, never a newcomer with less in it', async () => {
  const inTurn = createTurns(1, 4)
  const { began, work, finish } = steps()
  const flood = ['f0', 'f1', 'f2', 'f3', 'f4'].map((name) => inTurn('flood', work(name)))
  const results = Promise.allSettled(flood)
  await assert.rejects(inTurn('flood', work('f5')), { code: 'PASSWORD_BUSY' })
  const other = inTurn('other', work('o1'))
  await finish()
  assert.equal(await other, 'o1')
  assert.deepEqual(began, ['f0', 'f1', 'o1', 'f2', 'f3'])
  const last = (await results).at(-1) as PromiseRejectedResult
  assert.equal(last.reason.code, 'PASSWORD_BUSY')
})

test('work that fails gives its place to the next', async () => {
  const inTurn = createTurns(1, 4)
  const failed = inTurn('a', async () => {
    throw new Error('no')
  })
  const next = inTurn('b', async () => 'yes')
  await assert.rejects(failed, /no/)
  assert.equal(await next, 'yes')
})
