import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { ensureAdmin, passwordFile } from '../../runtime/bootstrap.ts'
import { openDatabaseFile } from '../../runtime/database-file.ts'
import { migrate } from '../../runtime/migrate.ts'
import { makeAssets } from '../support/assets.ts'

test('a first start that ends before the password is written leaves no admin whose password nobody knows', async () => {
  const root = mkdtempSync(join(tmpdir(), 'mcr-first-'))
  const store = await openDatabaseFile(join(root, 'mcr.db'), { onFatal: (error) => Promise.reject(error) })
  await migrate(store, makeAssets({}).migrations)
  const first = async () => ({ password: 'p', isRandom: true, hash: 'h' })
  await assert.rejects(ensureAdmin(store, first, join(root, 'missing'), 1), /ENOENT/)
  assert.deepEqual(await store.read.all('SELECT name FROM accounts'), [])
  assert.deepEqual(await ensureAdmin(store, first, root, 2), { name: 'admin', password: 'p', file: passwordFile(root) })
  assert.equal(readFileSync(passwordFile(root), 'utf8'), 'p\n')
  await store.close()
  rmSync(root, { recursive: true })
})
