import type { Base, Exchange, Ports } from '../context.ts'
import { ociError } from '../oci/errors.ts'
import type { PasswordLogin } from './accounts.ts'

type Needs = Pick<Base, 'now' | 'note' | 'touch'> & Pick<Ports, 'passwords'>

/** A password that was good is good again for this long, without hashing: docker logs in for every scope. */
const goodLoginMs = 60_000
const rememberedLogins = 1_000

/**
 * Whether a password is that of a login that was found; an unknown name costs the same. A client that opens many connections at once has its
 * password hashed once. Errors: TOOMANYREQUESTS where too many wait for that.
 */
export function createPasswordCheck(
  ctx: Needs,
): (found: PasswordLogin | undefined, name: string, password: string, exchange: Exchange) => Promise<boolean> {
  const goodLogins = new Map<string, { id: number; version: number; until: number }>()
  let memoryKey: Promise<CryptoKey> | undefined
  const checking = new Map<string, Promise<boolean>>()
  let decoy: Promise<string> | undefined

  async function checkPassword(
    found: PasswordLogin | undefined,
    password: string,
    exchange: Exchange,
    key: string,
  ): Promise<boolean> {
    // An unknown name costs what a known one does: its absence must not be measurable.
    decoy ??= ctx.passwords.hash('a password that nobody has')
    let good: boolean
    try {
      good = await ctx.passwords.verify(password, found?.hash ?? (await decoy), exchange.address)
    } catch (error) {
      if (!found) decoy = undefined
      if ((error as { code?: string }).code !== 'PASSWORD_BUSY') throw error
      throw ociError('TOOMANYREQUESTS', undefined, { message: 'too many logins at once', headers: { 'Retry-After': '2' } })
    }
    if (!good || !found) return false
    if (goodLogins.size >= rememberedLogins) goodLogins.clear()
    goodLogins.set(key, { id: found.credentialId, version: found.credentialVersion, until: ctx.now() + goodLoginMs })
    ctx.note({ type: 'login', actor: found.account.subject, address: exchange.address, detail: { with: 'password' } })
    ctx.touch(found.credentialId)
    return true
  }

  return async (found: PasswordLogin | undefined, name: string, password: string, exchange: Exchange): Promise<boolean> => {
    memoryKey ??= crypto.subtle.generateKey({ name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
    const mac = await crypto.subtle.sign('HMAC', await memoryKey, new TextEncoder().encode(`${name}\0${password}`))
    const key = String.fromCharCode(...new Uint8Array(mac))
    const known = goodLogins.get(key)
    // By its row too: who has the name now may not be who had it.
    const isKnown = known?.id === found?.credentialId && known?.version === found?.credentialVersion
    if (found && known && isKnown && known.until > ctx.now()) return true
    const asked = `${found?.credentialId} ${found?.credentialVersion} ${exchange.address} ${key}`
    const running = checking.get(asked) ?? checkPassword(found, password, exchange, key).finally(() => checking.delete(asked))
    checking.set(asked, running)
    return await running
  }
}
