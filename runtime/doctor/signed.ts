import { createHash, randomBytes } from 'node:crypto'
import { bodyCures } from './anonymous.ts'
import { ask, askAnyhow, type Lost, orLost, type Public } from './ask.ts'
import type { Find } from './finding.ts'

const streamMs = 6_000

/**
 * What shows only to somebody who may push and delete in a repository of the doctor's own: a growing upload, one that pauses, a blob there and
 * back, a stream of the journal. Everything that was pushed is deleted again. Errors: `Lost`, where not even an upload can be begun.
 */
export async function examineSigned(to: Public, find: Find): Promise<void> {
  const headers = { authorization: to.authorization as string }
  const start = await ask(to, `/v2/${to.repository}/blobs/uploads/`, { method: 'POST', headers })
  if (start.status !== 202) {
    find({
      what: 'login',
      severity: 'note',
      says: `uploads were not looked at: the login may not push to ${to.repository} (${start.status})`,
      cures: { mcr: '--repository <one it may push to>, or another login' },
    })
    return
  }
  const upload = location(to, start.headers.location, find)
  const checks = [
    ...(upload === undefined ? [] : [growing(to, upload, headers, find)]),
    pausing(to, headers, find),
    thereAndBack(to, headers, find),
    streaming(to, headers, find),
  ]
  await Promise.all(checks.map((check) => orLost(check, find)))
}

function location(to: Public, value: string | undefined, find: Find): string | undefined {
  const at = value !== undefined && URL.canParse(value, to.url.origin) ? new URL(value, to.url.origin) : undefined
  if (at?.origin === to.url.origin && at.pathname.startsWith(`/v2/${to.repository}/blobs/uploads/`)) return at.pathname
  find({
    what: 'location',
    severity: 'wrong',
    says: `an upload is sent to ${value ?? 'nowhere'}, not to /v2/${to.repository}/blobs/uploads/… of this address`,
    cures: {
      nginx: 'proxy_redirect off; and the registry at the root of its own host name, not under a path',
      caddy: 'no header_down Location, and no handle_path or uri strip_prefix',
    },
  })
  return undefined
}

/** Pieces of 1, 2, 4 … MiB to one upload, which is cancelled. */
async function growing(to: Public, upload: string, headers: Record<string, string>, find: Find): Promise<void> {
  for (let size = 2 ** 20; size <= to.uploadBytes; size *= 2) {
    const answer = await ask(to, upload, {
      method: 'PATCH',
      headers,
      body: { pieces: [Buffer.alloc(size)] },
      timeoutMs: 120_000,
    }).catch((error: Error) => error)
    if (!(answer instanceof Error) && answer.status === 202) continue
    const what = answer instanceof Error ? answer.message : `status ${answer.status}`
    find({ what: 'body-cap', severity: 'wrong', says: `a body of ${size / 2 ** 20} MiB fails (${what})`, cures: bodyCures })
    break
  }
  // Tidying up: an upload that stays expires by itself.
  await ask(to, upload, { method: 'DELETE', headers }).catch(() => undefined)
}

async function pausing(to: Public, headers: Record<string, string>, find: Find): Promise<void> {
  const start = await ask(to, `/v2/${to.repository}/blobs/uploads/`, { method: 'POST', headers })
  const upload = URL.canParse(start.headers.location ?? '', to.url.origin)
    ? new URL(start.headers.location as string, to.url.origin).pathname
    : ''
  const answer = await ask(to, upload, {
    method: 'PATCH',
    headers,
    body: { pieces: [Buffer.from('before'), Buffer.from('after')], pauseMs: to.patienceMs },
    timeoutMs: to.patienceMs + 20_000,
  }).catch((error: Error) => error)
  // Tidying up: an upload that stays expires by itself.
  await ask(to, upload, { method: 'DELETE', headers }).catch(() => undefined)
  if (!(answer instanceof Error) && (answer.status === 202 || answer.status === 404)) return
  find({
    what: 'timeout',
    severity: 'wrong',
    says: `an upload that pauses for ${to.patienceMs / 1000} s is cut (${answer instanceof Error ? answer.message : `status ${answer.status}`})`,
    cures: {
      nginx: 'client_body_timeout 1h; proxy_read_timeout 1h; proxy_send_timeout 1h; send_timeout 1h;',
      caddy: 'no read_body timeout of servers { timeouts }, no response_header_timeout or read_timeout of transport http',
    },
  })
}

/** A blob of more than the registry sends from memory, pushed, asked for in several ways, and deleted. */
async function thereAndBack(to: Public, headers: Record<string, string>, find: Find): Promise<void> {
  const content = randomBytes(300_000)
  const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`
  const blob = `/v2/${to.repository}/blobs/${digest}`
  const pushed = await ask(to, `/v2/${to.repository}/blobs/uploads/?digest=${digest}`, {
    method: 'POST',
    headers,
    body: { pieces: [content] },
  })
  if (pushed.status !== 201) return
  const whole = await askAnyhow(to, blob, { headers: { ...headers, 'accept-encoding': 'gzip, zstd, br' } })
  const part = await askAnyhow(to, blob, { headers: { ...headers, range: 'bytes=100000-199999' } })
  const kept = await askAnyhow(to, blob, { headers: { ...headers, 'if-none-match': `"${digest}"` } })
  // Tidying up: no manifest names it, so it is collected.
  await ask(to, blob, { method: 'DELETE', headers }).catch(() => undefined)
  const lost = [
    ['Docker-Content-Digest', digest],
    ['Content-Length', String(content.length)],
    ['ETag', `"${digest}"`],
    ['Content-Type', 'application/octet-stream'],
  ].filter(([name, value]) => whole.headers[(name as string).toLowerCase()] !== value)
  if (lost.length > 0 && typeof whole.status === 'number')
    find({
      what: 'headers',
      severity: 'wrong',
      says: `a blob arrives without ${lost.map(([name]) => name).join(', ')} as the registry sends it`,
      cures: {
        nginx: 'gzip off; no proxy_hide_header; with server.accel the location that mcr routes --nginx --accel writes',
        caddy: 'no encode, no header -…; with server.accel the block that mcr routes --caddy --accel writes',
      },
    })
  if (
    whole.status !== 200 ||
    !whole.body.equals(content) ||
    part.status !== 206 ||
    !part.body.equals(content.subarray(100_000, 200_000)) ||
    kept.status !== 304
  )
    find({
      what: 'blob',
      severity: 'wrong',
      says: `a blob does not come back as it was pushed (whole ${whole.status}, range ${part.status}, unchanged ${kept.status})`,
      cures: {
        nginx: 'no proxy_cache, no slice; alias of the accel location is storage.layers_path, readable for nginx',
        caddy: 'root of the accel block is storage.layers_path, readable for Caddy',
      },
    })
}

/** The journal as a stream: an entry that is made now must come now. */
async function streaming(to: Public, headers: Record<string, string>, find: Find): Promise<void> {
  const stream = ask(to, '/v1/audit/events?follow=true&last=1&event_type=token_refused', {
    headers,
    timeoutMs: streamMs,
    until: 'first',
  }).catch((error: Lost) => error)
  await new Promise((resolve) => setTimeout(resolve, 500))
  await ask(to, '/v2/', { headers: { authorization: `Bearer mcr-doctor-${Date.now()}` } })
  const answer = await stream
  if (answer instanceof Error && answer.code !== 'ETIMEDOUT') throw answer
  if (!(answer instanceof Error)) {
    if (answer.status !== 200)
      find({
        what: 'login',
        severity: 'note',
        says: `whether answers are held back was not looked at: the login may not read the journal (${answer.status})`,
        cures: { mcr: 'a login with audit:read' },
      })
    return
  }
  find({
    what: 'response-buffering',
    severity: 'wrong',
    says: `an answer that comes bit by bit is held back on its way (${answer.message})`,
    cures: { nginx: 'proxy_buffering off; gzip off;', caddy: 'flush_interval -1' },
  })
}
