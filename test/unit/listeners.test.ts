import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import type { Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { shareDescriptors } from '../../runtime/descriptors.ts'
import { makeServer } from '../../runtime/listeners.ts'
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
