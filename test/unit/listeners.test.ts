import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { lstatSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { Server } from 'node:http'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { shareDescriptors } from '../../runtime/descriptors.ts'
import { countSockets, listenOn, makeServer } from '../../runtime/listeners.ts'
import { holdSocket } from '../../runtime/sockets.ts'
import { loadTls } from '../../runtime/tls.ts'
import { makeCertificate } from '../support/process.ts'

test('no request has a time limit of the platform, and connections are kept, with TLS as without', (t) => {
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-listeners-'))
  t.after(() => rmSync(scratch, { recursive: true, force: true }))
  for (const tls of [undefined, loadTls(makeCertificate(scratch))]) {
    const server = makeServer(tls, 'all') as Server
    assert.equal(server.requestTimeout, 0)
    assert.equal(server.headersTimeout, 10_000)
    assert.equal(server.keepAliveTimeout, 95_000)
  }
})

test('descriptors are shared between connections and files, above a reserve', () => {
  assert.deepEqual(shareDescriptors(4096, 1_048_576), { limit: 1_048_576, connections: 4096, files: 524_256 })
  assert.deepEqual(shareDescriptors(4096, 1024), { limit: 1024, connections: 480, files: 480 })
  assert.deepEqual(shareDescriptors(10, 1024), { limit: 1024, connections: 10, files: 480 })
  assert.deepEqual(shareDescriptors(4096, 64), { limit: 64, connections: 8, files: 8 })
})

test('a socket replaces what a dead process left, and nothing else, held for workers as served', async (t) => {
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-l-'))
  t.after(() => rmSync(scratch, { recursive: true, force: true }))
  const file = join(scratch, 'file')
  writeFileSync(file, 'theirs')
  const held = join(scratch, 'held')
  const server = createServer()
  t.after(() => server.close())
  await once(server.listen(held), 'listening')
  const dead = join(scratch, 'dead')
  for (const take of [
    async (path: string) => (await holdSocket(`unix:${path}`, 'registry')).close(),
    async (path: string) => {
      const own = makeServer(undefined, 'all')
      await listenOn(own, `unix:${path}`)
      own.close()
    },
  ]) {
    await assert.rejects(take(file), /is no socket: remove it/)
    await assert.rejects(take(join(scratch, 'none/socket')), /there is no directory .*none for the socket/)
    await assert.rejects(take(join(scratch, 'x'.repeat(90))), /bytes at most: choose a shorter one/)
    assert.equal(readFileSync(file, 'utf8'), 'theirs')
    await assert.rejects(take(held), /another process listens on/)
    spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen('${dead}', () => process.kill(process.pid, 'SIGKILL'))`,
    ])
    assert.ok(lstatSync(dead).isSocket())
    await take(dead)
    rmSync(dead, { force: true })
  }
})

test('proxies that are named have as many connections as they want, and nobody else for their sake', () => {
  const server = new EventEmitter()
  const limited: unknown[] = []
  countSockets(
    server as never,
    {
      limits: { connections: 100, connectionsPerAddress: 2, minBodyRate: 0 },
      trustedProxies: ['192.0.2.0/24'],
      onLimit: (limit, fields) => limited.push([limit, fields?.address]),
    },
    { sockets: new Set(), uses: new Map(), sessions: new Set(), turnedAway: new Set() },
  )
  const sockets = ['192.0.2.7', '::ffff:192.0.2.8', '127.0.0.1', undefined, '198.51.100.1'].flatMap((remoteAddress) =>
    [1, 2, 3].map(() => Object.assign(new EventEmitter(), { remoteAddress, destroy: () => undefined })),
  )
  for (const socket of sockets) server.emit('connection', socket)
  assert.deepEqual(limited, [['connections_per_address', '198.51.100.1']])
  for (const socket of sockets) socket.emit('close')
})
