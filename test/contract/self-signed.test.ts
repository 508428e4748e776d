import assert from 'node:assert/strict'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { createSecureContext } from 'node:tls'
import { ensureSelfSigned } from '../../runtime/self-signed.ts'

test('a good certificate is kept; one that was cut short, or is of another key, is made anew', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'mcr-tls-'))
  t.after(() => rmSync(root, { recursive: true }))
  const names = ['localhost', '127.0.0.1']
  const make = (directory: string) => ensureSelfSigned(join(root, directory), names)
  const first = await make('a')
  assert.equal((await make('a')).fingerprint, first.fingerprint)

  for (const file of [first.cert, first.key])
    for (const content of ['', readFileSync(file).subarray(0, 100)]) {
      writeFileSync(file, content)
      const { cert, key } = await make('a')
      createSecureContext({ cert: readFileSync(cert), key: readFileSync(key) })
    }

  // Two processes that start at once may each put one of the two in place.
  copyFileSync((await make('b')).key, first.key)
  const { cert, key } = await make('a')
  createSecureContext({ cert: readFileSync(cert), key: readFileSync(key) })
  assert.equal((await ensureSelfSigned(join(root, 'a'), ['elsewhere'])).cert, cert)
  assert.notEqual((await make('a')).fingerprint, first.fingerprint)
})
