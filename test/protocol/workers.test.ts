// Workers under a parent: one is killed, all are replaced, all are ended, while requests run. Runs the build.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, copyFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, type IncomingMessage, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { sha256 } from '../support/oci.ts'
import { killAtExit, listeningPort, mcrCommand, password, spawnRegistry } from '../support/process.ts'

const root = mkdtempSync(join(tmpdir(), 'mcr-workers-'))
const authorization = `Basic ${btoa(`admin:${password}`)}`
const parent = spawnRegistry([], {
  MCR_STORAGE_ROOT: root,
  MCR_STORAGE_FREE_FLOOR: '0',
  MCR_AUTH_BOOTSTRAP_PASSWORD: password,
  MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
  MCR_SERVER_WORKERS: '2',
})
after(async () => {
  parent.kill('SIGKILL')
  await sleep(200)
  rmSync(root, { recursive: true, force: true })
})

interface Line {
  event: string
  worker?: number
  pid?: number
  path?: string
  state?: string
}
let log = ''
parent.stdout?.on('data', (chunk: Buffer) => {
  log += chunk
})
const lines = () =>
  log
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Line)

async function until<T>(what: string, look: () => T | undefined | false): Promise<T> {
  for (let waited = 0; waited < 60_000; waited += 50) {
    const found = look()
    if (found) return found
    await sleep(50)
  }
  return assert.fail(`${what} did not come: ${log}`)
}

const port = await listeningPort(parent)
const pidOf = (worker: number) =>
  lines()
    .filter((line) => line.event === 'worker_serves' && line.worker === worker)
    .at(-1)?.pid as number

/** A request on a connection that is kept. Shape: status, headers and text; rejects where the connection is cut. */
function ask(
  agent: Agent,
  method: string,
  path: string,
  body: Uint8Array[] = [],
  gapMs = 0,
): Promise<{ status: number; headers: IncomingMessage['headers']; text: string }> {
  return new Promise((resolve, reject) => {
    const length = body.reduce((sum, part) => sum + part.length, 0)
    const headers = { authorization, ...(method === 'GET' ? {} : { 'content-length': length }) }
    const req = request({ agent, port, host: '127.0.0.1', method, path, headers }, (res) => {
      let text = ''
      res.on('data', (chunk) => {
        text += chunk
      })
      res.once('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, text }))
      res.once('error', reject)
    })
    req.once('error', reject)
    void (async () => {
      for (const [index, part] of body.entries()) {
        if (index > 0) await sleep(gapMs)
        if (!req.destroyed) req.write(part)
      }
      req.end()
    })()
  })
}

/** Connections until each worker has one at least, with the worker of each. */
async function connectionsToBoth(mark: string): Promise<{ agent: Agent; worker: number }[]> {
  const found: { agent: Agent; worker: number }[] = []
  for (let index = 0; index < 300; index++) {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const path = `/v2/?${mark}=${index}`
    assert.equal((await ask(agent, 'GET', path)).status, 200)
    const { worker } = await until('the line of the request', () => lines().find((line) => line.path === path))
    found.push({ agent, worker: worker as number })
    if (index >= 5 && new Set(found.map((entry) => entry.worker)).size === 2) return found
  }
  return assert.fail('one worker got all of 300 connections')
}

const begin = async (repository: string) => {
  const { headers } = await ask(new Agent(), 'POST', `/v2/${repository}/blobs/uploads/`)
  return headers.location as string
}
const half = [new TextEncoder().encode('0123456789'), new TextEncoder().encode('abcdefghij')]
const whole = '0123456789abcdefghij'

async function numbers(): Promise<Record<string, number>> {
  const { text } = await ask(new Agent(), 'GET', '/metrics')
  const sum = (pattern: RegExp) => [...text.matchAll(pattern)].reduce((total, [, value]) => total + Number(value), 0)
  return {
    workers: sum(/^mcr_workers (\d+)/gm),
    requests: sum(/^mcr_requests_total\{.*\} (\d+)/gm),
    timed: sum(/^mcr_request_duration_seconds_count\{.*\} (\d+)/gm),
    killed: sum(/^mcr_worker_ends_total\{how="SIGKILL"\} (\d+)/gm),
  }
}

test('a worker that is killed loses its own connections only, and is started again; open uploads go on', async () => {
  const connections = await connectionsToBoth('kill')
  const victim = connections[0]?.worker as number
  const before = await numbers()
  assert.equal(before.workers, 2)
  const uploads = await Promise.all(connections.map(async (entry) => ({ ...entry, location: await begin('workers/kill') })))
  const asked = uploads.map(async ({ agent, worker, location }) => {
    const outcome = await ask(agent, 'PATCH', location, half, 3_000).catch((error: Error) => error)
    return { outcome, worker, location }
  })
  await sleep(1_000)
  process.kill(pidOf(victim), 'SIGKILL')
  for (const { outcome, worker, location } of await Promise.all(asked)) {
    if (worker !== victim) {
      assert.ok(!(outcome instanceof Error), `worker ${worker} lives, and its upload was cut: ${outcome}`)
      assert.equal(outcome.status, 202)
      continue
    }
    assert.ok(outcome instanceof Error, 'the killed worker cannot have answered')
    assert.equal((await ask(new Agent(), 'PATCH', location, half)).status, 202, 'the upload goes on in another worker')
    const finished = await ask(new Agent(), 'PUT', `${location}?digest=${sha256(new TextEncoder().encode(whole))}`)
    assert.equal(finished.status, 201)
  }
  await until('a new worker', () => lines().filter((line) => line.event === 'worker_serves').length === 3)
  const later = await numbers()
  assert.equal(later.workers, 2)
  assert.equal(later.killed, 1)
  assert.ok((later.requests as number) >= (before.requests as number), 'what a dead worker has counted stays counted')
})

test('SIGHUP replaces every worker while requests run; nothing is refused, nothing is cut, counts go on', async () => {
  const connections = await connectionsToBoth('replace')
  const old = [pidOf(1), pidOf(2)]
  const before = await numbers()
  let answered = 0
  let stop = false
  const fresh = (async () => {
    while (!stop) {
      assert.equal((await ask(new Agent(), 'GET', '/v2/')).status, 200)
      answered++
    }
  })()
  const kept = connections.map(async ({ agent }) => {
    const location = await begin('workers/replace')
    const patched = await ask(agent, 'PATCH', location, half, 2_000)
    assert.equal(patched.status, 202)
    while (!stop) {
      assert.equal((await ask(agent, 'GET', '/v2/')).status, 200)
      await sleep(20)
    }
  })
  await sleep(500)
  parent.kill('SIGHUP')
  await until('the replacement', () => lines().some((line) => line.event === 'workers_replaced' && line.state === 'done'))
  stop = true
  await Promise.all([fresh, ...kept])
  assert.ok(answered > 0)
  for (const worker of [1, 2]) assert.ok(!old.includes(pidOf(worker)))
  await until('the end of the old workers', () => lines().filter((line) => line.event === 'worker_ended').length === 3)
  const later = await numbers()
  assert.equal(later.workers, 2)
  for (const name of ['requests', 'timed']) assert.ok((later[name] as number) > (before[name] as number), name)
})

test('SIGTERM lets running uploads end in every worker, exits 0, and frees the port', async () => {
  const connections = await connectionsToBoth('end')
  const locations = await Promise.all(connections.map(() => begin('workers/end')))
  const running = connections.map(({ agent }, index) => ask(agent, 'PATCH', locations[index] as string, half, 1_500))
  await sleep(500)
  parent.kill('SIGTERM')
  for (const { status, headers } of await Promise.all(running)) {
    assert.equal(status, 202)
    assert.equal(headers.connection, 'close')
  }
  if (parent.exitCode === null) await once(parent, 'exit')
  assert.equal(parent.exitCode, 0)
  await assert.rejects(ask(new Agent(), 'GET', '/v2/'), /ECONNREFUSED/)
})

/** A program of its own, to be replaced on disk: a script that loads the build, or a copy of the executable. */
function placeProgram(folder: string): { command: [string, ...string[]]; put(what: 'right' | 'failing'): void } {
  const [file, script] = mcrCommand()
  const path = join(folder, script === undefined ? 'mcr' : 'mcr.cjs')
  const put = (what: 'right' | 'failing') => {
    const next = `${path}.next`
    if (what === 'right' && script === undefined) copyFileSync(file, next)
    else if (what === 'right') writeFileSync(next, `require(${JSON.stringify(script)})\n`)
    else if (script === undefined) writeFileSync(next, '#!/bin/sh\nsleep 2\nexit 1\n')
    else writeFileSync(next, 'setTimeout(() => process.exit(1), 2_000)\n')
    chmodSync(next, 0o755)
    renameSync(next, path)
  }
  put('right')
  return { command: script === undefined ? [path] : [file, path], put }
}

test('a worker that dies while its replacement fails is started again', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mcr-replaced-'))
  const program = placeProgram(folder)
  const [file, ...first] = program.command
  const alone = spawn(file, [...first, 'serve'], {
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      MCR_LOG_FORMAT: 'json',
      MCR_STORAGE_ROOT: join(folder, 'data'),
      MCR_STORAGE_FREE_FLOOR: '0',
      MCR_STORAGE_BALLAST: '0',
      MCR_AUTH_BOOTSTRAP_PASSWORD: password,
      MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0',
      MCR_SERVER_WORKERS: '1',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  killAtExit(alone)
  t.after(async () => {
    alone.kill('SIGTERM')
    if (alone.exitCode === null) await once(alone, 'exit')
    rmSync(folder, { recursive: true, force: true })
  })
  let said = ''
  const at = await listeningPort(alone, (line) => {
    said += `${line}\n`
  })
  const events = (event: string) =>
    said
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Line)
      .filter((line) => line.event === event)
  program.put('failing')
  alone.kill('SIGHUP')
  await until('the replacement', () => events('workers_replaced').length === 1)
  await sleep(300)
  process.kill(events('worker_serves')[0]?.pid as number, 'SIGKILL')
  await until('the end of the replacement', () => events('workers_replaced').some(({ state }) => state === 'given up'))
  program.put('right')
  await until('a worker', () => events('worker_serves').length === 2)
  assert.equal((await fetch(`http://127.0.0.1:${at}/readyz`)).status, 200)
})
