import assert from 'node:assert/strict'
import { nativeFetch } from './assets.ts'
import type { Login, TestRegistry } from './registry.ts'
import { shapeName, shapes } from './shape.ts'

const { split } = shapes[shapeName()]

/** Asks for a registry token with a login, as clients do where a challenge sends them. */
export async function askToken(registry: TestRegistry, { name, password }: Login, ...scopes: string[]): Promise<Response> {
  const query = scopes.map((scope) => `scope=${encodeURIComponent(scope)}`).join('&')
  const headers = { authorization: `Basic ${btoa(`${name}:${password}`)}` }
  return await nativeFetch(`${registry.url}/v2/token?${query}`, { headers })
}

/**
 * GET of a path under `/v2` with a login that an identity service or an issuer knows: with Basic where every process asks them. Where only
 * those with the logins do, by a token for that scope, whose refusal then is the answer.
 */
export async function getWithIdentity(registry: TestRegistry, path: string, login: Login, scope: string): Promise<Response> {
  if (!split) return await registry.fetch('GET', path, { as: login })
  const answer = await askToken(registry, login, scope)
  if (!answer.ok) return answer
  return await registry.fetch('GET', path, { bearer: ((await answer.json()) as { token: string }).token })
}

/** A login that is good there is, straight on such a path: good too, or where other processes serve it, told where tokens are made. */
export async function checkStraight(registry: TestRegistry, path: string, login: Login): Promise<void> {
  const answer = await registry.fetch('GET', path, { as: login })
  assert.equal(answer.status, split ? 401 : 200)
  if (split) assert.match(answer.headers.get('www-authenticate') ?? '', /^Bearer realm="[^"]+\/v2\/token"/)
}
