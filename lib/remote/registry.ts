import type { Digest } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'

export type OutgoingFetch = (url: string, init?: RequestInit) => Promise<Response>

/** Another registry, read by the distribution protocol. */
export interface RemoteRegistry {
  /** The bytes of a blob as they come, or undefined where it does not have it. Errors: a plain Error that says what it answered. */
  blob(name: string, digest: Digest, signal: AbortSignal): Promise<unknown | undefined>
}

const redirectsMost = 5
/** Until the head of an answer has come; its body is watched by who reads it. */
const answerMs = 30_000

/**
 * A client of the registry at `address` (`host[:port]`, or `http://` on loopback). The credentials go to that host, and to a token service
 * only where it is the same host or one of `realmHosts`; never in the clear off loopback, never where an answer redirects to.
 * Errors: INVALID for an address that passwords must not go to.  Source: distribution-spec; the token protocol of distribution.
 */
export function openRemoteRegistry(options: {
  address: string
  username: string
  password: string
  realmHosts: readonly string[]
  fetch: OutgoingFetch
}): RemoteRegistry {
  const base = parseAddress(options.address)
  const tokens = new Map<string, string>()
  const basic = options.username === '' ? undefined : `Basic ${base64(`${options.username}:${options.password}`)}`

  async function ask(url: URL, authorization: string | undefined, signal: AbortSignal): Promise<Response> {
    const stop = new AbortController()
    const end = () => stop.abort()
    signal.addEventListener('abort', end, { once: true })
    const timer = setTimeout(end, answerMs)
    try {
      return await options.fetch(url.href, { headers: authorization === undefined ? {} : { authorization }, signal: stop.signal })
    } catch (error) {
      throw new Error(`${url.origin} cannot be reached: ${stop.signal.aborted ? 'no answer in time' : (error as Error).message}`)
    } finally {
      clearTimeout(timer)
    }
  }

  /** Follows redirects, as blob stores answer with; the credentials stay behind. */
  async function get(url: URL, authorization: string | undefined, signal: AbortSignal): Promise<Response> {
    let at = url
    for (let hops = 0; hops <= redirectsMost; hops++) {
      const response = await ask(at, at.origin === base.origin ? authorization : undefined, signal)
      const location = response.headers.get('location')
      if (response.status < 300 || response.status >= 400 || location === null) return response
      await response.body?.cancel()
      const next = new URL(location, at)
      if (!isSafe(next, base)) throw new Error(`${at.origin} redirects to ${next.origin}, which is not https`)
      at = next
    }
    throw new Error(`${base.origin} redirects more than ${redirectsMost} times`)
  }

  /** What a 401 asks for. Errors: a plain Error where the credentials must not go there, or are refused. */
  async function answerChallenge(challenge: string, name: string, signal: AbortSignal): Promise<string> {
    const { scheme, params } = parseChallenge(challenge)
    if (scheme === 'basic') {
      if (basic === undefined) throw new Error(`${base.origin} wants a login: --username`)
      return basic
    }
    if (scheme !== 'bearer' || params.realm === undefined) throw new Error(`${base.origin} wants ${scheme || 'nothing we know'}`)
    const realm = new URL(params.realm, base)
    if (realm.username !== '' || !isSafe(realm, base)) throw new Error(`the token service ${realm.origin} is not https`)
    if (realm.host !== base.host && !options.realmHosts.includes(realm.host))
      throw new Error(
        `${base.origin} sends logins to ${realm.host}: if that is its token service, say --realm-host ${realm.host}`,
      )
    if (params.service !== undefined) realm.searchParams.set('service', params.service)
    realm.searchParams.set('scope', `repository:${name}:pull`)
    const response = await ask(realm, basic, signal)
    const text = await response.text()
    if (response.status !== 200) throw new Error(`the token service ${realm.origin} answered ${response.status}`)
    const { token, access_token: other } = JSON.parse(text) as { token?: unknown; access_token?: unknown }
    const found = token ?? other
    if (typeof found !== 'string') throw new Error(`the token service ${realm.origin} gave no token`)
    return `Bearer ${found}`
  }

  return {
    async blob(name, digest, signal) {
      const url = new URL(`/v2/${name}/blobs/${digest}`, base)
      let response = await get(url, tokens.get(name), signal)
      if (response.status === 401) {
        await response.body?.cancel()
        tokens.set(name, await answerChallenge(response.headers.get('www-authenticate') ?? '', name, signal))
        response = await get(url, tokens.get(name), signal)
      }
      if (response.status === 200) return response.body
      await response.body?.cancel()
      if (response.status === 404) return undefined
      if (response.status === 401 || response.status === 403)
        throw new Error(`${base.origin} refuses ${name}: ${response.status}`)
      throw new Error(`${base.origin} answered ${response.status}`)
    },
  }
}

/** Errors: INVALID. */
function parseAddress(address: string): URL {
  const wrong = (message: string) => ociError('INVALID', undefined, { message: `from: ${message}` })
  let url: URL
  try {
    url = new URL(/^https?:\/\//.test(address) ? address : `https://${address}`)
  } catch {
    throw wrong('host or host:port of a registry')
  }
  if (url.username !== '' || url.pathname !== '/' || url.search !== '' || url.hash !== '') throw wrong('host or host:port alone')
  if (url.protocol === 'http:' && !isLoopback(url)) throw wrong('https: a login would cross the network in the clear')
  return url
}

const isLoopback = ({ hostname }: URL) => hostname === 'localhost' || hostname === '[::1]' || /^127(\.\d+){3}$/.test(hostname)

/** Whether anything may be asked there at all: https, or loopback for who began on loopback. */
const isSafe = (url: URL, base: URL) =>
  url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url) && base.protocol === 'http:')

function parseChallenge(text: string): { scheme: string; params: Record<string, string> } {
  const [, scheme = '', rest = ''] = /^\s*([A-Za-z]+)\s*(.*)$/s.exec(text) ?? []
  const params: Record<string, string> = {}
  for (const [, key, quoted, plain] of rest.matchAll(/([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/g))
    params[(key as string).toLowerCase()] = quoted?.replace(/\\(.)/g, '$1') ?? plain ?? ''
  return { scheme: scheme.toLowerCase(), params }
}

const base64 = (text: string) => btoa(String.fromCharCode(...new TextEncoder().encode(text)))
