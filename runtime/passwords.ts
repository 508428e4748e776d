import { argon2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import type { PasswordHasher } from '../lib/auth/passwords.ts'

const hashBytes = promisify(argon2) as (
  algorithm: 'argon2id',
  options: { message: Buffer; nonce: Buffer; parallelism: number; tagLength: number; memory: number; passes: number },
) => Promise<Buffer>

/** OWASP's choice for argon2id: 19 MiB (in KiB), two passes, one lane. */
const usual = { memory: 19_456, passes: 2 }
/** The least that argon2id takes. */
const least = { memory: 8, passes: 1 }
const longestBytes = 1024
/** Two hashes are 38 MiB and half of a small machine; the rest waits here. */
const atOnce = 2
const queued = 64

/** `$argon2id$v=19$m=<KiB>,t=<passes>,p=<lanes>$<salt>$<tag>`, base64 without padding.  Source: PHC string format. */
const phc = /^\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,128})\$([A-Za-z0-9+/]{16,128})$/

/**
 * Argon2id in the thread pool, two at a time. What waits is served by turns of its key (an address), and where the queue is full the key
 * that has most in it gives way: who floods it delays and turns away only himself.
 */
export function createPasswords(): PasswordHasher {
  const inTurn = createTurns(atOnce, queued)

  return {
    async hash(password) {
      const message = bytesOf(password)
      if (message.length > longestBytes)
        throw Object.assign(new Error(`a password longer than ${longestBytes} bytes`), { code: 'PASSWORD_TOO_LONG' })
      return await inTurn('', () => hashBy(usual, message))
    },
    async verify(password, hash, key) {
      const [, m, t, p, salt, tag] = phc.exec(hash) ?? []
      const message = bytesOf(password)
      if (salt === undefined || tag === undefined || message.length > longestBytes) return false
      const expected = Buffer.from(tag, 'base64')
      const nonce = Buffer.from(salt, 'base64')
      const cost = { memory: Number(m), passes: Number(t), parallelism: Number(p) }
      return await inTurn(key, async () =>
        timingSafeEqual(await hashBytes('argon2id', { message, nonce, tagLength: expected.length, ...cost }), expected),
      )
    },
  }
}

/**
 * A hash of a password of 120 random bits or more, for a first start, which waits for it: nobody guesses such a one, as nobody guesses a
 * token, so it need not be slow.
 */
export const hashRandom = async (password: string): Promise<string> => await hashBy(least, bytesOf(password))

async function hashBy(cost: typeof usual, message: Buffer): Promise<string> {
  const nonce = randomBytes(16)
  const tag = await hashBytes('argon2id', { message, nonce, parallelism: 1, tagLength: 32, ...cost })
  return `$argon2id$v=19$m=${cost.memory},t=${cost.passes},p=1$${unpadded(nonce)}$${unpadded(tag)}`
}

interface Waiter {
  start(): void
  turnAway(): void
}

/**
 * Runs work at most `limit` at a time, the waiting by turns of their keys.
 * Errors: PASSWORD_BUSY for the newcomer, or for the last of the key that waits most, when `most` wait already.
 */
export function createTurns(limit: number, most: number): <T>(key: string, work: () => Promise<T>) => Promise<T> {
  /** In the order of their next turn. */
  const waiting = new Map<string, Waiter[]>()
  let running = 0
  let length = 0

  function next(): void {
    const [first] = waiting
    if (!first) return
    const [key, list] = first
    const waiter = list.shift() as Waiter
    // To the end of the round, or out of it.
    waiting.delete(key)
    if (list.length > 0) waiting.set(key, list)
    length--
    running++
    waiter.start()
  }

  function makeRoom(key: string): void {
    if (length < most) return
    let longest = key
    let size = (waiting.get(key)?.length ?? 0) + 1
    for (const [other, list] of waiting) if (list.length > size) [longest, size] = [other, list.length]
    if (longest === key) throw busy()
    length--
    waiting.get(longest)?.pop()?.turnAway()
  }

  return async (key, work) => {
    if (running < limit) running++
    else {
      makeRoom(key)
      length++
      await new Promise<void>((resolve, reject) => {
        const waiter = { start: resolve, turnAway: () => reject(busy()) }
        const list = waiting.get(key)
        if (list) list.push(waiter)
        else waiting.set(key, [waiter])
      })
    }
    try {
      return await work()
    } finally {
      running--
      next()
    }
  }
}

const busy = () => Object.assign(new Error('too many passwords to hash'), { code: 'PASSWORD_BUSY' })
const bytesOf = (password: string) => Buffer.from(password, 'utf8')
const unpadded = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '')
