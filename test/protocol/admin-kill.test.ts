import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { mcrCommand, password, startRegistry } from '../support/process.ts'

const seed = Number(process.env.MCR_TEST_SEED ?? Math.floor(Math.random() * 1_000_000))

/** Numbers that look random and are the same for the same seed (mulberry32). */
function random(state: number): () => number {
  let at = state
  return () => {
    at = (at + 0x6d2b79f5) | 0
    let value = Math.imul(at ^ (at >>> 15), 1 | at)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 4_294_967_296
  }
}

test('kill -9 during 500 administrative changes: journal entries are the effects, no more and no fewer, and the chain verifies', async (t) => {
  t.diagnostic(`MCR_TEST_SEED=${seed}`)
  const next = random(seed)
  const registry = await startRegistry()
  const headers = { authorization: `Basic ${btoa(`admin:${password}`)}`, 'content-type': 'application/json' }
  const ask = async (method: string, path: string, body?: object) =>
    await fetch(`${registry.url}${path}`, { method, headers, body: body && JSON.stringify(body) })
  const acknowledged = new Set<string>()
  const removed = new Set<string>()
  let changes = 0
  for (let kills = 0; changes < 500; kills++) {
    const clients = Array.from({ length: 4 }, async (_, client) => {
      for (let index = 0; ; index++) {
        const name = `k${kills}-${client}-${index}`
        try {
          const made = await ask('POST', '/v1/policy/rules', {
            effect: 'deny',
            actions: ['registry:pull'],
            repositories: [`${name}/**`],
            description: name,
          })
          if (made.status !== 201) throw new Error(`${made.status} ${await made.text()}`)
          const { rule } = (await made.json()) as { rule: { id: number } }
          acknowledged.add(name)
          changes++
          if (index % 3 === 2) {
            const gone = await ask('DELETE', `/v1/policy/rules/${rule.id}`)
            if (gone.status !== 204) throw new Error(`${gone.status}`)
            removed.add(name)
            changes++
          }
        } catch (error) {
          if (error instanceof Error && /^[0-9]{3} /.test(error.message)) throw error
          return
        }
      }
    })
    // Killed after answers, not after a time: a slow machine has as many as a fast one.
    const wanted = changes + 10 + next() * 30
    while (changes < wanted) await new Promise((resolve) => setTimeout(resolve, 1))
    process.kill(registry.pid, 'SIGKILL')
    await Promise.all(clients)
    await registry.restart()
  }
  const list = async (path: string, key: string) => {
    const rows: Record<string, string>[] = []
    for (let after = ''; ; ) {
      const page = (await (await ask('GET', `${path}n=1000&after=${after}`)).json()) as Record<string, never>
      rows.push(...(page[key] as unknown as Record<string, string>[]))
      after = page.next as unknown as string
      if (after === '') return rows
    }
  }
  const rules = new Set((await list('/v1/policy/rules?', 'rules')).map((rule) => rule.description as string))
  const described = (await list('/v1/audit?event_type=rule_created&', 'events')).map(
    (event) => JSON.parse(event.details as string) as { id: number; rule: { repositories: string[] } },
  )
  const created = described.map(({ rule }) => rule.repositories[0]?.replace('/**', '') as string)
  const byId = new Map(described.map(({ id }, index) => [id, created[index] as string]))
  const deleted = (await list('/v1/audit?event_type=rule_deleted&', 'events')).map(
    (event) => byId.get((JSON.parse(event.details as string) as { id: number }).id) as string,
  )
  assert.equal(new Set(created).size, created.length, 'each once')
  const effects = new Set(created.filter((name) => !deleted.includes(name)))
  assert.deepEqual([...rules].sort(), [...effects].sort(), 'rules that are there = created - deleted')
  for (const name of acknowledged) assert.ok(created.includes(name), `${name} was acknowledged`)
  for (const name of removed) assert.ok(!rules.has(name), `${name} was removed`)
  t.diagnostic(`${changes} acknowledged changes, ${created.length} rules created, ${deleted.length} deleted`)

  const [command, ...words] = mcrCommand()
  const verified = spawnSync(command, [...words, '--json', 'audit', 'verify'], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, HOME: process.env.HOME, XDG_CONFIG_HOME: registry.dir, MCR_STORAGE_ROOT: registry.dir },
  })
  assert.equal((JSON.parse(verified.stdout) as { ok: boolean }).ok, true, verified.stdout)
  await registry.remove()
})
