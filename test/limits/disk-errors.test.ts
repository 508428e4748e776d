import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { sha256 } from '../support/oci.ts'
import { password, startRegistry } from '../support/process.ts'

const skip = spawnSync('strace', ['-V']).status === 0 ? false : 'strace is not installed'
const authorization = `Basic ${btoa(`admin:${password}`)}`

/** A registry in which calls on one path fail from now on, until the answer is called. */
async function failing(inject: string, path: (dir: string) => string) {
  const log: string[] = []
  const registry = await startRegistry({ onLog: (line) => log.push(line) })
  const post = async (content: string) =>
    await fetch(`${registry.url}/v2/err/app/blobs/uploads/?digest=${sha256(content)}`, {
      method: 'POST',
      body: content,
      headers: { authorization },
    })
  assert.equal((await post('before')).status, 201)
  const strace = spawn(
    'strace',
    [
      '-f',
      '-qq',
      '-o',
      '/dev/null',
      '-p',
      String(registry.pid),
      '-P',
      path(registry.dir),
      '-e',
      `trace=${inject.split(':')[0]}`,
      '-e',
      `inject=${inject}`,
    ],
    { stdio: 'ignore' },
  )
  await sleep(1_500)
  const end = async () => {
    strace.kill('SIGTERM')
    if (strace.exitCode === null && strace.signalCode === null) await once(strace, 'exit')
  }
  return { registry, log, post, end }
}

test("an I/O error of the database's log ends the process with 70, and nothing was acknowledged", { skip }, async (t) => {
  const { registry, log, post, end } = await failing('fsync,fdatasync:error=EIO', (dir) => `${dir}/mcr.db-wal`)
  t.after(() => registry.remove())
  const answer = await post('lost').then(
    ({ status }) => status,
    () => 'no answer',
  )
  assert.notEqual(answer, 201)
  assert.equal(await registry.exitCode(), 70)
  await end()
  assert.ok(log.some((line) => line.includes('"event":"database_lost"')))
  await registry.restart()
  assert.equal((await post('after')).status, 201)
})

test('a sync of a directory that fails fails the uploads that needed it, and no others', { skip }, async (t) => {
  const { registry, post, end } = await failing('fsync:error=EIO', (dir) => `${dir}/uploads`)
  t.after(() => registry.remove())
  assert.equal((await post('unsynced')).status, 500)
  await end()
  assert.equal((await post('synced')).status, 201)
})
