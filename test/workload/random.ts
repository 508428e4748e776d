import { createHash } from 'node:crypto'

export interface Random {
  /** From 0 up to 1. */
  (): number
  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number
  chance(probability: number): boolean
  pick<T>(list: readonly T[]): T
}

/** Numbers that look random and are the same for the same seed (mulberry32). */
export function createRandom(seed: number): Random {
  let at = seed | 0
  const next = () => {
    at = (at + 0x6d2b79f5) | 0
    let value = Math.imul(at ^ (at >>> 15), 1 | at)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 4_294_967_296
  }
  return Object.assign(next, {
    between: (low: number, high: number) => low + Math.floor(next() * (high - low + 1)),
    chance: (probability: number) => next() < probability,
    pick: <T>(list: readonly T[]) => list[Math.floor(next() * list.length)] as T,
  })
}

/** Bytes that a name stands for: the same name, the same bytes, and no pattern that a shifted copy would repeat. */
export function bytesNamed(name: string, length: number): Buffer {
  const blocks: Buffer[] = []
  for (let at = 0; at * 64 < length; at++) blocks.push(createHash('sha512').update(`${name} ${at}`).digest())
  return Buffer.concat(blocks).subarray(0, length)
}

export const sha256 = (bytes: Uint8Array | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`
