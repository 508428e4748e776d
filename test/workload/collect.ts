import type { ChildProcess } from 'node:child_process'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fleet } from './fleet.ts'
import { type Finding, unanswered } from './push-blob.ts'
import type { Random } from './random.ts'

export interface Collecting {
  go(): void
  /** Asks for no more and waits for the command line's collection under way. */
  hold(): Promise<void>
  /** SIGKILL of the command that collects just now. Shape: whether there was one. */
  kill(): boolean
  /** Waits until no collection is under way or asked for, also one that a killed process left to be taken over. */
  idle(): Promise<void>
  /** The same, and waits until it has left. */
  killAll(): Promise<void>
  /** One whole collection, and then files that no row names. The registry must be quiet. */
  collectAll(): Promise<void>
  end(): Promise<void>
  asked: number
}

/**
 * Asks for garbage collections without pause: of the servers, whose jobs run them, and of the command line, which is a process of its own.
 * Every run is with `now`, every tenth looks for files that no row names.
 */
export function startCollecting(fleet: Fleet, random: Random, finding: Finding): Collecting {
  let command: { child: ChildProcess; killed: boolean } | undefined
  let ended = false
  let held = true
  let byCommandDone: Promise<unknown> = Promise.resolve()
  let work: Promise<unknown> = Promise.resolve()

  async function byCommand(): Promise<void> {
    await fleet.gate.passed()
    const { child, done } = fleet.command(['--json', 'gc', ...(random.chance(0.2) ? ['reconcile'] : ['run', '--now'])])
    const own = { child, killed: false }
    command = own
    byCommandDone = done
    const { code, output } = await done
    command = undefined
    // One at a time, and a database whose lock a stopped process keeps, are answers; nothing else is.
    if (!own.killed && code !== 0 && !/under way|try again|busy|locked/i.test(output))
      finding(`mcr gc ended with ${code}: ${output}`)
  }
  /** Shape: the id of the run; undefined where the registry did not take it. */
  async function ask(what: 'run' | 'reconcile'): Promise<string | undefined> {
    const { status, body } = await fleet.client('POST', what === 'run' ? '/v1/gc' : '/v1/gc/reconcile', {
      body: JSON.stringify(what === 'run' ? { now: true } : {}),
      headers: { 'content-type': 'application/json' },
    })
    if (status === 202) return (JSON.parse(body.toString()) as { id: string }).id
    if (![0, 409, 503].includes(status)) finding(`POST /v1/gc ${what}: ${status} ${body}`)
    return undefined
  }
  async function loop() {
    for (let turn = 1; !ended; turn++) {
      if (held) {
        await sleep(5)
        continue
      }
      work = turn % 15 === 0 ? byCommand() : ask(random.chance(0.1) ? 'reconcile' : 'run')
      collecting.asked++
      await work
      await sleep(random.between(20, 400))
    }
  }
  /** Asks until it is taken and done. */
  async function certainly(what: 'run' | 'reconcile') {
    let id: string | undefined
    for (const deadline = Date.now() + 120_000; Date.now() < deadline; await sleep(50)) {
      id ??= await ask(what)
      const status = id === undefined ? undefined : await fleet.probe('GET', '/v1/gc/status')
      if (!status || unanswered(status)) continue
      const { last_run: run } = JSON.parse(status.body.toString()) as {
        last_run?: { id: string; completed_at: string; error: string }
      }
      if (run && run.id === id && run.completed_at) {
        if (run.error) finding(`gc ${what}: ${run.error}`)
        return
      }
    }
    finding(`gc ${what} was not taken and done in two minutes`)
  }
  const collecting: Collecting = {
    asked: 0,
    go() {
      held = false
    },
    async hold() {
      held = true
      await work
    },
    kill() {
      if (!command) return false
      command.killed = true
      return command.child.kill('SIGKILL')
    },
    async idle() {
      for (;;) {
        const { status, body } = await fleet.probe('GET', '/v1/gc/status')
        if (status === 200 && !(JSON.parse(body.toString()) as { running: boolean }).running) return
        fleet.passTime()
        await sleep(50)
      }
    },
    async killAll() {
      if (collecting.kill()) await byCommandDone
    },
    async collectAll() {
      await certainly('run')
      await certainly('reconcile')
    },
    async end() {
      ended = true
      collecting.kill()
      await looping
    },
  }
  const looping = loop()
  return collecting
}

/** Every open upload was touched for the last time long ago. */
export function ageUploads(database: string): void {
  const db = new DatabaseSync(database, { timeout: 10_000 })
  db.exec('PRAGMA wal_autocheckpoint = 0')
  db.exec('UPDATE uploads SET touched_at = 0, epoch = 0')
  db.close()
}
