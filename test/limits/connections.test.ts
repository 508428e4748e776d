import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { sha256 } from '../support/oci.ts'
import { makeCertificate, password, type RegistryProcess, startRegistry } from '../support/process.ts'

const long = process.env.MCR_TEST_LONG !== undefined
const authorization = `Basic ${btoa(`admin:${password}`)}`
const layer = randomBytes(4 * 2 ** 20)
const digest = sha256(layer)
const path = `/v2/limits/app/blobs/${digest}`

const residentMb = (pid: number) => Number(/VmRSS:\s+([0-9]+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
/** Files of blobs that a process has open. */
const openBlobFiles = (pid: number) =>
  readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).includes('/blobs/')
    } catch {
      return false
    }
  }).length
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function pushLayer(registry: RegistryProcess): Promise<void> {
  const url = `${registry.url}/v2/limits/app/blobs/uploads/?digest=${digest}`
  const response = await fetch(url, { method: 'POST', body: layer, headers: { authorization } })
  assert.equal(response.status, 201, await response.text())
}

/** One pull on a connection of its own. Shape: the status, or why there is none; of a 200 that it was whole. */
async function pull(port: number): Promise<string> {
  return await new Promise((resolve) => {
    const req = request({ port, host: '127.0.0.1', path, agent: false, headers: { authorization } }, (res) => {
      const chunks: Buffer[] = []
      res.on('data', (chunk: Buffer) => chunks.push(chunk))
      res.on('end', () => {
        if (res.statusCode !== 200) return resolve(String(res.statusCode))
        resolve(sha256(Buffer.concat(chunks)) === digest ? '200' : '200 with wrong bytes')
      })
      res.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'cut'))
    })
    req.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'cut'))
    req.end()
  })
}

const tally = (results: readonly string[]) => {
  const counts: Record<string, number> = {}
  for (const result of results) counts[result] = (counts[result] ?? 0) + 1
  return counts
}

async function startWith(t: TestContext, options: Parameters<typeof startRegistry>[0] = {}) {
  const log: string[] = []
  const registry = await startRegistry({ ...options, onLog: (line) => log.push(line) })
  t.after(() => registry.remove())
  return { registry, port: Number(registry.host.split(':')[1]), log, pid: registry.pid }
}

const clients = long ? 500 : 200
test(`128 descriptors and ${clients} pulls at once: some are told 503, none is wrong, and afterwards all are served`, async (t) => {
  const { registry, port, log, pid } = await startWith(t, { through: ['prlimit', '--nofile=128:128'] })
  assert.ok(log.some((line) => line.includes('"event":"descriptors_few"') && line.includes('"connections":32')))
  await pushLayer(registry)
  const results = tally(await Promise.all(Array.from({ length: clients }, () => pull(port))))
  t.diagnostic(JSON.stringify(results))
  for (const result of Object.keys(results)) assert.match(result, /^(200|503|ECONNRESET|EPIPE)$/)
  assert.ok((results[200] ?? 0) >= 20)
  assert.ok((results[503] ?? 0) > 0, 'some are told why')
  assert.equal(registry.pid, pid)
  for (let wait = 0; ; wait++) {
    const after = tally(await Promise.all(Array.from({ length: 20 }, () => pull(port))))
    if (after[200] === 20) break
    assert.ok(wait < 25, `not served afterwards: ${JSON.stringify(after)}`)
    await pause(200)
  }
  await pushLayer(registry)
  assert.ok(log.some((line) => line.includes('"event":"limit_reached"') && line.includes('"limit":"connections"')))
  const metrics = await (await fetch(`${registry.url}/metrics`, { headers: { authorization } })).text()
  assert.match(metrics, /mcr_limits_reached_total\{limit="connections"\} [1-9]/)
  assert.match(metrics, /mcr_open_files_limit 32/)
})

/** Connections that send these bytes, then one byte a second. Shape: what each of them was told, when it is closed. */
function drip(port: number, count: number, first: string, next: string): { closed: Promise<string[]>; sockets: Socket[] } {
  const sockets = Array.from({ length: count }, () => connect(port, '127.0.0.1'))
  const closed = sockets.map(
    (socket) =>
      new Promise<string>((resolve) => {
        let text = ''
        let timer: NodeJS.Timeout | undefined
        socket.on('connect', () => {
          socket.write(first)
          timer = setInterval(() => socket.write(next), 1000)
        })
        socket.on('data', (chunk) => {
          text += chunk
        })
        socket.on('error', () => undefined)
        socket.on('close', () => {
          clearInterval(timer)
          resolve(text)
        })
      }),
  )
  return { closed: Promise.all(closed), sockets }
}

test('slow headers, slow bodies and clients that do not read: others are served, the slow ones are given up', async (t) => {
  const { registry, port, log } = await startWith(t, { env: { MCR_LIMITS_UPLOADS_PER_PRINCIPAL: '1000' } })
  await pushLayer(registry)
  const count = long ? 600 : 100
  const began = Date.now()
  const headers = drip(port, count, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nX-Slow: `, 'a')
  const upload = `POST /v2/limits/slow/blobs/uploads/?digest=${digest} HTTP/1.1\r\nHost: localhost\r\nAuthorization: ${authorization}\r\nContent-Length: ${layer.length}\r\n\r\n`
  const bodies = drip(port, count, upload, 'b')
  const readers = Array.from({ length: count }, () => {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.on('connect', () => {
      socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: ${authorization}\r\n\r\n`)
      socket.pause()
    })
    return socket
  })
  await pause(1_000)
  const served = tally(
    await Promise.all(
      Array.from({ length: 10 }, async () => (tally([await pull(port), await pull(port)])[200] === 2 ? 'both' : 'not')),
    ),
  )
  assert.deepEqual(served, { both: 10 })
  const told = await headers.closed
  t.diagnostic(`${count} clients with slow headers were given up within ${Math.round((Date.now() - began) / 1000)} s`)
  for (const text of told) assert.match(text, /^HTTP\/1\.1 408/)
  const [large] = await drip(port, 1, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nX-Large: ${'a'.repeat(70_000)}`, 'a').closed
  assert.match(large as string, /^HTTP\/1\.1 431/)
  const metrics = await (await fetch(`${registry.url}/metrics`, { headers: { authorization } })).text()
  for (const [limit, times] of [
    ['header_time', count],
    ['header_size', 1],
  ]) {
    assert.match(metrics, new RegExp(`mcr_limits_reached_total\\{limit="${limit}"\\} ${times}\\n`))
    assert.equal(log.filter((line) => line.includes('"event":"limit_reached"') && line.includes(`"limit":"${limit}"`)).length, 1)
  }
  assert.equal(await pull(port), '200')
  if (long) {
    const answers = await bodies.closed
    for (const text of answers) assert.match(text, /^HTTP\/1\.1 408/)
    // A reader that takes nothing is closed, and its file with it.
    const files = () => openBlobFiles(registry.pid)
    for (let wait = 0; files() > 0; wait++) {
      assert.ok(wait < 200, `${files()} files stay open for clients that do not read`)
      await pause(1_000)
    }
    assert.ok(log.some((line) => line.includes('"limit":"body_rate"')) || log.some((line) => line.includes('"status":408')))
    t.diagnostic(`slow bodies and readers given up within ${Math.round((Date.now() - began) / 1000)} s`)
  }
  for (const socket of [...headers.sockets, ...bodies.sockets, ...readers]) socket.destroy()
  assert.equal(await pull(port), '200')
})

/** Its end by the server is no failure here. */
const drained = async (socket: Socket) => await once(socket, 'drain').catch(() => undefined)

/** An HTTP/2 frame (RFC 9113 §4.1). */
function frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array()): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head.writeUInt8(type, 3)
  head.writeUInt8(flags, 4)
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}
const hpackText = (index: number, text: string) => Buffer.concat([Buffer.from([index, text.length]), Buffer.from(text)])
/** :method GET, :scheme https, :path /v2/, :authority localhost, with the static table alone (RFC 7541 appendix A). */
const getHeaders = Buffer.concat([Buffer.from([0x82, 0x87]), hpackText(0x04, '/v2/'), hpackText(0x01, 'localhost')])
const cancel = Buffer.from([0, 0, 0, 8])

const floods: [name: string, most: number, frames: (index: number) => Buffer][] = [
  [
    'streams that are reset at once',
    50_000,
    (index) => Buffer.concat([frame(1, 5, 2 * index + 1, getHeaders), frame(3, 0, 2 * index + 1, cancel)]),
  ],
  ['pings', 50_000, () => frame(6, 0, 0, Buffer.alloc(8))],
  ['settings', 50_000, () => frame(4, 0, 0)],
  ['headers that never end', 2_000, (index) => frame(index === 0 ? 1 : 9, index === 0 ? 1 : 0, 1, Buffer.alloc(1024, 0x82))],
]

test('floods of HTTP/2 frames end their own connection, cost little memory, and nobody else notices', async (t) => {
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-flood-'))
  t.after(() => rmSync(scratch, { recursive: true, force: true }))
  const tls = makeCertificate(scratch)
  const { port, pid, log } = await startWith(t, { tls })
  const ca = readFileSync(tls.cert)
  const ping = async () =>
    await new Promise<number>((resolve, reject) => {
      const socket = tlsConnect({ port, host: 'localhost', ca, ALPNProtocols: ['http/1.1'] }, () =>
        socket.write('GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n'),
      )
      socket.once('data', (chunk) => {
        // HTTP/1.1 over TLS is kept as long as without: Node's own five seconds would cut clients between two requests.
        assert.match(String(chunk), /Keep-Alive: timeout=95/i)
        resolve(Number(String(chunk).slice(9, 12)))
        socket.destroy()
      })
      socket.on('error', reject)
    })
  // A registry at work, not one that has just begun: what its first requests load and fill is no flood's doing.
  for (let request = 0; request < 500; request++) assert.equal(await ping(), 200)
  const before = residentMb(pid)
  let closed = 0
  for (const [name, most, make] of floods) {
    let sent = 0
    let connections = 0
    while (sent < most && connections < (long ? 1_000 : 40)) {
      connections++
      const socket = tlsConnect({ port, host: 'localhost', ca, ALPNProtocols: ['h2'] })
      socket.on('error', () => undefined)
      socket.resume()
      await once(socket, 'secureConnect')
      const ended = once(socket, 'close').catch(() => undefined)
      socket.write(Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0)]))
      for (let index = 0; sent < most && !socket.destroyed; ) {
        const batch = Array.from({ length: 100 }, () => make(index++))
        sent += batch.length
        if (!socket.write(Buffer.concat(batch))) await Promise.race([drained(socket), ended, pause(2_000)])
        await pause(0)
      }
      if (name.startsWith('streams') && connections === 1) await Promise.race([ended.then(() => closed++), pause(10_000)])
      socket.destroy()
      assert.equal(await ping(), 200)
    }
    if (name.startsWith('streams')) assert.equal(closed, 1, 'the server ends a connection that resets its streams')
    t.diagnostic(`${name}: ${sent} frames over ${connections} connections, ${Math.round(residentMb(pid) - before)} MB more`)
    assert.ok(sent >= Math.min(most, 2_000), name)
  }
  assert.ok(
    log.some((line) => line.includes('"event":"limit_reached"') && line.includes('"limit":"http2"')),
    'what ended a connection is told',
  )
  assert.ok(residentMb(pid) - before < 50, `${residentMb(pid) - before} MB more`)
})
