/** Who a token of the remote identity service stands for, as that service sees it at this moment. */
export interface McIdentity {
  /** the account's UUID over there, in lower case */
  sub: string
  username?: string
  roles: string[]
  accountType?: 'human' | 'system'
  /** milliseconds since 1970 */
  expiresAt: number
}

/**
 * REFUSED: wrong name, password or one-time code. TOTP: right so far, but a one-time code is wanted. DENIED: known, and not let in here.
 * UNAVAILABLE: no verdict at all.
 */
export type McFailure = (typeof failures)[number]

/** The port to the remote identity service. Whatever it throws is told apart by `isMciasFailure`. */
export interface Mcias {
  /** A new token there; `expiresAt` in milliseconds since 1970. Errors: each McFailure. */
  login(username: string, password: string, totp?: string): Promise<{ token: string; expiresAt: number }>
  /** Undefined: the service says that it is not valid. Nothing is remembered. Errors: IDENTITY_DENIED, IDENTITY_UNAVAILABLE. */
  validate(token: string): Promise<McIdentity | undefined>
  /**
   * The service's Ed25519 key, asked for at most every 10 minutes; the last good one is kept while the service is down. Undefined where
   * it never told one. Never throws.
   */
  publicKey(): Promise<JsonWebKey | undefined>
}

type Answer = Readonly<Record<string, unknown>>

const failures = ['IDENTITY_REFUSED', 'IDENTITY_TOTP', 'IDENTITY_DENIED', 'IDENTITY_UNAVAILABLE'] as const
const loginPath = '/v1/auth/login'
const validatePath = '/v1/token/validate'
const keyPath = '/v1/keys/public'
const answerBytes = 65_536
const keyMs = 600_000
/** While there is no key at all: soon again, but not at every request that wants one. */
const noKeyMs = 10_000
const tokenChars = 16_384
/** What may stand in an Authorization header.  Source: RFC 9110, section 11.2. */
const tokenForm = /^[A-Za-z0-9._~+/-]+=*$/
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i
/** Names and roles are shown and logged: nothing invisible in them. */
const oneLine = /^\P{C}{1,256}$/u
const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/i

/**
 * A client of the remote identity service at `serverUrl`, which is https and may have a path. `serviceName` and `tags` say who asks, for
 * the policy over there. A question ends after `timeoutMs` (10 s), an answer after 64 KiB; no redirect is followed, since it would carry
 * the password elsewhere. Errors: a plain Error where `serverUrl` is no such address.
 */
export function createMcias(options: {
  serverUrl: string
  serviceName?: string
  tags: readonly string[]
  fetch: (url: string, init: RequestInit) => Promise<Response>
  now: () => number
  timeoutMs?: number
}): Mcias {
  const { serviceName, tags, now, timeoutMs = 10_000 } = options
  const base = baseOf(options.serverUrl)
  const asker = { service_name: serviceName, tags: tags.length > 0 ? tags : undefined }
  let key: JsonWebKey | undefined
  let askKeyAt = Number.NEGATIVE_INFINITY
  let asking: Promise<void> | undefined

  /** Status and text of the answer; a GET without `body`. Errors: IDENTITY_UNAVAILABLE where none came whole and in time. */
  async function ask(path: string, body?: unknown, more: Record<string, string> = {}): Promise<{ status: number; text: string }> {
    const headers = { ...more, Accept: 'application/json', ...(body ? { 'Content-Type': 'application/json' } : {}) }
    const abort = new AbortController()
    const method = body ? 'POST' : 'GET'
    const init: RequestInit = { method, headers, body: JSON.stringify(body), signal: abort.signal, redirect: 'manual' }
    let timer: ReturnType<typeof setTimeout> | undefined
    // Raced as well as aborted: a fetch that does not heed the signal must not hold a login.
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(unavailable(path, `no answer within ${timeoutMs} ms`))
        abort.abort()
      }, timeoutMs)
    })
    try {
      const whole = options.fetch(base + path, init).then(async (response) => {
        return { status: response.status, text: await readText(path, response) }
      })
      return await Promise.race([whole, late])
    } catch (error) {
      throw isMciasFailure(error) ? error : unavailable(path, reasonOf(error))
    } finally {
      clearTimeout(timer)
    }
  }

  async function refreshKey(): Promise<void> {
    try {
      const { status, text } = await ask(keyPath)
      key = readKey(expectAnswer(keyPath, status, text))
    } catch {
      // Down, or talking nonsense: what it said before still stands.
    }
    askKeyAt = now() + (key ? keyMs : noKeyMs)
    asking = undefined
  }

  return {
    async login(username, password, totp) {
      if (username === '' || password === '') throw failure('IDENTITY_REFUSED', 'a name and a password are needed')
      const { status, text } = await ask(loginPath, { username, password, totp_code: totp || undefined, ...asker })
      if (status === 401)
        throw parseObject(text)?.code === 'totp_required'
          ? failure('IDENTITY_TOTP', 'the account needs a one-time code as well')
          : failure('IDENTITY_REFUSED', 'the identity service refused the name or the password')
      const answer = expectAnswer(loginPath, status, text)
      if (!isToken(answer.token)) throw malformed(loginPath, 'token')
      return { token: answer.token, expiresAt: readTime(loginPath, answer.expires_at) }
    },
    async validate(token) {
      if (!isToken(token)) return undefined
      // Servers of this kind take it from the header or from the body, and which is not written down.
      const { status, text } = await ask(validatePath, { token }, { Authorization: `Bearer ${token}` })
      return status === 401 ? undefined : readIdentity(expectAnswer(validatePath, status, text))
    },
    async publicKey() {
      if (now() >= askKeyAt) {
        asking ??= refreshKey()
        await asking
      }
      return key
    },
  }
}

/** Whether something thrown is a failure of the remote identity service; by code, since classes do not survive a bundle boundary. */
export function isMciasFailure(error: unknown): error is Error & { code: McFailure } {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return failures.some((known) => known === code)
}

/** No cause goes along: what fetch and JSON.parse throw quotes the header or the body it did not like, and those hold secrets. */
const failure = (code: McFailure, message: string): Error & { code: McFailure } => Object.assign(new Error(message), { code })

const unavailable = (path: string, reason: string) => failure('IDENTITY_UNAVAILABLE', `identity service, ${path}: ${reason}`)

const malformed = (path: string, field: string) => unavailable(path, `the answer has no usable ${field}`)

/** Of a failed fetch only its name, such as ECONNREFUSED; some platforms put it into the cause. */
function reasonOf(error: unknown): string {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: { code?: unknown } | null }
  const name = [code, cause?.code].find((value) => typeof value === 'string' && /^[A-Z][A-Z0-9_]{1,63}$/.test(value))
  return name === undefined ? 'no readable answer' : `no readable answer (${name})`
}

function baseOf(serverUrl: string): string {
  const url = URL.canParse(serverUrl) ? new URL(serverUrl) : undefined
  if (url?.protocol !== 'https:' || url.username || url.password || url.search || url.hash)
    throw new Error('the identity service needs an https address without name, query or fragment')
  return url.origin + url.pathname.replace(/\/+$/, '')
}

async function readText(path: string, response: Response): Promise<string> {
  const reader = response.body?.getReader()
  if (!reader) return ''
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let size = 0
  let text = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return text + decoder.decode()
      size += value.byteLength
      if (size > answerBytes) throw unavailable(path, `the answer is larger than ${answerBytes} bytes`)
      text += decoder.decode(value, { stream: true })
    }
  } finally {
    reader.cancel().catch(() => undefined)
  }
}

function parseObject(text: string): Answer | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Answer) : undefined
  } catch {
    return undefined
  }
}

/** Anything that is neither a good answer nor a clear no, redirects and 429 among them, is no verdict. */
function expectAnswer(path: string, status: number, text: string): Answer {
  if (status === 403) throw failure('IDENTITY_DENIED', 'the identity service does not let this account in here')
  if (status !== 200) throw unavailable(path, status === 0 ? 'it redirects' : `it answered ${status}`)
  const answer = parseObject(text)
  if (!answer) throw unavailable(path, 'the answer is no JSON object')
  return answer
}

const isToken = (value: unknown): value is string =>
  typeof value === 'string' && value.length <= tokenChars && tokenForm.test(value)

function readTime(path: string, value: unknown): number {
  // Engines need to know no more than three digits of a second.  Source: ECMA-262, "Date Time String Format".
  const at = typeof value === 'string' && time.test(value) ? Date.parse(value.toUpperCase().replace(/(\.\d{3})\d+/, '$1')) : NaN
  if (Number.isNaN(at)) throw malformed(path, 'expires_at')
  return at
}

function readIdentity(answer: Answer): McIdentity | undefined {
  if (answer.valid === false) return undefined
  if (answer.valid !== true) throw malformed(validatePath, 'valid')
  const field = <T>(name: string, fits: (value: unknown) => value is T): T => {
    const value = answer[name]
    if (!fits(value)) throw malformed(validatePath, name)
    return value
  }
  const identity: McIdentity = {
    sub: field('sub', isUuid).toLowerCase(),
    roles: (answer.roles ?? null) === null ? [] : field('roles', isLines),
    expiresAt: readTime(validatePath, answer.expires_at),
  }
  if (!isAbsent(answer.username)) identity.username = field('username', isLine)
  if (!isAbsent(answer.account_type)) identity.accountType = field('account_type', isAccountType)
  return identity
}

/** Go writes what is not there as null, as an empty text or not at all; an empty list as null or not at all. */
const isAbsent = (value: unknown): boolean => value === undefined || value === null || value === ''
const isUuid = (value: unknown): value is string => typeof value === 'string' && uuid.test(value)
const isLine = (value: unknown): value is string => typeof value === 'string' && oneLine.test(value)
const isLines = (value: unknown): value is string[] => Array.isArray(value) && value.every(isLine)
const isAccountType = (value: unknown): value is 'human' | 'system' => value === 'human' || value === 'system'

/** Only what makes the public key: a private half that was told by mistake is not kept. */
function readKey({ kty, crv, x }: Answer): JsonWebKey {
  if (kty !== 'OKP' || crv !== 'Ed25519' || typeof x !== 'string' || !/^[A-Za-z0-9_-]{43}$/.test(x))
    throw malformed(keyPath, 'key')
  return { kty, crv, x }
}
