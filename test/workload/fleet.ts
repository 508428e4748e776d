import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../support/ports.ts'
import { killAtExit, password } from '../support/process.ts'
import { type Client, createClient, createGate, type Gate } from './client.ts'

const program = new URL('../../dist/mcr.cjs', import.meta.url).pathname

export interface Place {
  /** storage.root: blobs, uploads, key. */
  root: string
  /** The database file; on another file system where the two are to be cut apart. */
  database: string
  /** Where the processes log to. */
  logs: string
}

export interface Member {
  name: string
  mount: string
  port: number
  child: ChildProcess | undefined
  /** Answers only since its last start. */
  ready: boolean
  stopped: boolean
}

/** Several processes of the build over one data directory. */
export interface Fleet {
  members: readonly Member[]
  place: Place
  settings: Readonly<Record<string, string>>
  /** Asks a process which serves the request. Waits while the gate is closed. */
  client: Client
  /** The same past the gate, for who checks before anybody changes anything. */
  probe: Client
  gate: Gate
  start(member: Member): Promise<void>
  startAll(): Promise<void>
  /** SIGKILL, and waits for the end. */
  kill(member: Member): Promise<void>
  killAll(): Promise<void>
  /** Says that somebody else may kill it. */
  expectKill(member: Member): void
  pause(member: Member): void
  resume(member: Member): void
  /** `mcr` with these words over the same data, a process of its own; `under` is what goes before it: settings, another program. Shape: as it ended, and its output. */
  command(
    words: readonly string[],
    under?: readonly string[],
  ): { child: ChildProcess; done: Promise<{ code: number | null; output: string }> }
  /** What died holding a lease or a run is over now and not in a minute or two: the work that clocks would allow later, sooner. */
  passTime(): void
  /** Ends that nobody asked for: a process that left by itself. */
  surprises: string[]
}

/**
 * Makes the processes' ports, starts them and makes a token for the clients. `mounts`: the mount list of each process.
 * The registry is as it ships, but nothing stays warm (`storage.gc_grace` 0s): what protects a push is the protocol alone.
 */
export async function startFleet(place: Place, mounts: readonly string[], more: Record<string, string> = {}): Promise<Fleet> {
  mkdirSync(place.root, { recursive: true, mode: 0o700 })
  mkdirSync(place.logs, { recursive: true })
  const settings = {
    MCR_STORAGE_ROOT: place.root,
    MCR_DATABASE_PATH: place.database,
    MCR_STORAGE_FREE_FLOOR: '0',
    MCR_STORAGE_GC_GRACE: '0s',
    MCR_STORAGE_UNDELETE_WINDOW: '0s',
    MCR_STORAGE_GC_INTERVAL: '0s',
    MCR_AUTH_BOOTSTRAP_PASSWORD: password,
    MCR_LIMITS_UPLOADS_PER_PRINCIPAL: '1000000',
    MCR_LOG_LEVEL: 'warn',
    MCR_LOG_FORMAT: 'json',
    UV_THREADPOOL_SIZE: '2',
    ...more,
  }
  const env = { PATH: process.env.PATH, HOME: place.logs, XDG_CONFIG_HOME: place.logs, ...settings }
  const surprises: string[] = []
  const gate = createGate()
  const members: Member[] = []
  for (const [index, mount] of mounts.entries())
    members.push({ name: `p${index}-${mount}`, mount, port: await freePort(), child: undefined, ready: false, stopped: false })
  const killed = new WeakSet<ChildProcess>()

  const starting = new Map<Member, Promise<void>>()
  const start = async (member: Member): Promise<void> => {
    const under = starting.get(member)
    if (under) return await under
    const begun = launch(member).finally(() => starting.delete(member))
    starting.set(member, begun)
    return await begun
  }
  const launch = async (member: Member): Promise<void> => {
    const log = openSync(join(place.logs, `${member.name}.log`), 'a')
    const child = spawn(process.execPath, [program, 'serve', '--mount', member.mount], {
      env: { ...env, MCR_SERVER_LISTEN_ADDR: `127.0.0.1:${member.port}` },
      stdio: ['ignore', log, log],
      // Ctrl-C is for the test, which ends them itself.
      detached: true,
    })
    closeSync(log)
    killAtExit(child)
    member.child = child
    member.stopped = false
    let gone = false
    child.once('exit', (code, signal) => {
      gone = true
      if (member.child === child) member.ready = false
      if (!killed.has(child)) surprises.push(`${member.name} ended by itself: ${signal ?? `exit ${code}`}`)
    })
    for (const deadline = Date.now() + 300_000; ; ) {
      if (gone) {
        if (killed.has(child)) return
        throw new Error(
          `${member.name} did not start:\n${readFileSync(join(place.logs, `${member.name}.log`), 'utf8').slice(-2000)}`,
        )
      }
      if (await answers(member.port)) break
      if (Date.now() > deadline) throw new Error(`${member.name} did not answer in five minutes`)
      await sleep(25)
    }
    if (!gone) member.ready = true
  }
  const kill = async (member: Member): Promise<void> => {
    const { child } = member
    member.ready = false
    if (child && child.exitCode === null && child.signalCode === null) {
      killed.add(child)
      const end = once(child, 'exit')
      child.kill('SIGKILL')
      await end
    }
    await starting.get(member)
  }
  const startAll = async () => void (await Promise.all(members.map(start)))
  // One after the other the first time: the first makes the database.
  await start(members[0] as Member)
  await Promise.all(members.slice(1).map(start))
  const authority = members.find(({ mount }) => mount === 'all' || mount === 'auth') as Member
  const response = await fetch(`http://127.0.0.1:${authority.port}/v1/tokens`, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa(`admin:${password}`)}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'workload' }),
  })
  if (response.status !== 201) throw new Error(`no token: ${response.status} ${await response.text()}`)
  const { secret } = (await response.json()) as { secret: string }

  return {
    members,
    place,
    settings,
    client: createClient(members, secret, gate.passed),
    probe: createClient(members, secret),
    gate,
    start,
    startAll,
    kill,
    killAll: async () => void (await Promise.all(members.map(kill))),
    expectKill(member) {
      if (member.child) killed.add(member.child)
    },
    pause(member) {
      member.stopped = true
      member.child?.kill('SIGSTOP')
    },
    resume(member) {
      member.stopped = false
      member.child?.kill('SIGCONT')
    },
    command(words, under = []) {
      const child = spawn('/usr/bin/env', [...under, process.execPath, program, ...words], {
        env,
        stdio: ['ignore', 'pipe', 'pipe'],
        detached: true,
      })
      killAtExit(child)
      const pieces: Buffer[] = []
      for (const stream of [child.stdout, child.stderr]) stream?.on('data', (piece: Buffer) => pieces.push(piece))
      const done = once(child, 'close').then(([code]) => ({ code: code as number | null, output: `${Buffer.concat(pieces)}` }))
      return { child, done }
    },
    passTime: () => passTime(place.database),
    surprises,
  }
}

/** Marks every lease and every run of garbage collection as long not heard of. */
function passTime(path: string): void {
  const db = new DatabaseSync(path, { timeout: 200 })
  try {
    db.exec('PRAGMA wal_autocheckpoint = 0')
    db.exec(`BEGIN IMMEDIATE; UPDATE leases SET expires_at = 0; UPDATE gc_runs SET beat_at = 0 WHERE state = 'running'; COMMIT`)
  } catch (error) {
    // Whoever was stopped while it held the write lock keeps it: then time passes later.
    if (!/database is locked/.test(String(error))) throw error
    if (db.isTransaction) db.exec('ROLLBACK')
  } finally {
    db.close()
  }
}

/** A process listens when it can answer. */
async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  const connected = await new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
  })
  socket.destroy()
  return connected
}
