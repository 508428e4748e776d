import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Fleet } from './fleet.ts'
import type { History } from './history.ts'
import type { Finding } from './push-blob.ts'

export interface Run {
  seed: number
  numbers: Record<string, number>
  words: Record<string, string>
  /** Where everything of this run lies; it stays when there was a finding. */
  folder: string
  finding: Finding
  findings: readonly string[]
  /** What to do at the end, also after an error or Ctrl-C; last registered first. */
  onEnd(work: () => unknown): void
  /** One line that is written over by the next where there is a terminal, else now and then. */
  progress(line: string): void
  /** Whether Ctrl-C was pressed: then end soon. */
  interrupted(): boolean
}

const findingsMost = 50
const progressEveryMs = 10_000

/**
 * Runs one of the long tests as a command: options that are numbers or words, a seed that is printed and can be given, the verdict at the end. It
 * fails where anything was found, and then keeps data, logs and what the clients were told, and says where.
 */
export async function runTest(
  name: string,
  defaults: Record<string, number | string>,
  body: (run: Run) => Promise<{ history?: History; fleet?: Fleet; summary: string }>,
): Promise<void> {
  const options = Object.fromEntries([...Object.keys(defaults), 'seed'].map((key) => [key, { type: 'string' as const }]))
  const { values } = parseArgs({ options })
  const seed = Number(values.seed ?? Math.floor(Math.random() * 1_000_000))
  const numbers: Record<string, number> = {}
  const words: Record<string, string> = {}
  for (const [key, value] of Object.entries(defaults))
    if (typeof value === 'string') words[key] = values[key] ?? value
    else numbers[key] = Number(values[key] ?? value)
  for (const [key, value] of Object.entries({ ...numbers, seed }))
    if (!Number.isFinite(value)) throw new Error(`--${key} must be a number`)
  const base = process.env.MCR_TEST_DIR ?? tmpdir()
  mkdirSync(base, { recursive: true })
  const folder = mkdtempSync(join(base, `mcr-${name}-`))
  const said = Object.entries({ ...numbers, ...words }).map(([key, value]) => `--${key} ${value}`)
  console.log(`${name}: ${said.join(' ')} --seed ${seed}`)

  const findings: string[] = []
  const ends: (() => unknown)[] = []
  const started = Date.now()
  let told = 0
  let interrupted = false
  const onSignal = () => {
    if (interrupted) process.exit(130)
    interrupted = true
    console.error(`${name}: ending`)
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  const run: Run = {
    seed,
    numbers,
    words,
    folder,
    findings,
    finding(what) {
      if (findings.length < findingsMost) {
        findings.push(what)
        console.error(`${name}: FOUND ${what}`)
      }
    },
    onEnd: (work) => void ends.unshift(work),
    progress(line) {
      if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${line}`)
      else if (Date.now() - told > progressEveryMs) {
        told = Date.now()
        console.log(`  ${Math.round((Date.now() - started) / 1000)} s: ${line}`)
      }
    },
    interrupted: () => interrupted,
  }
  let result: Awaited<ReturnType<typeof body>> | undefined
  try {
    result = await body(run)
    for (const surprise of result.fleet?.surprises ?? []) run.finding(surprise)
  } catch (error) {
    run.finding(`the test itself ended: ${(error as Error).stack ?? error}`)
  }
  const failed = findings.length > 0
  if (failed) writeFileSync(join(folder, 'findings.txt'), `${findings.join('\n')}\n`)
  if (failed && result?.history) writeHistory(folder, result.history)
  for (const work of ends)
    try {
      await work()
    } catch (error) {
      console.error(`${name}: cleaning up: ${error}`)
    }
  if (process.stdout.isTTY) process.stdout.write('\r\x1b[K')
  console.log(`${name}: ${result?.summary ?? 'did not end'}; seed ${seed}, ${Math.round((Date.now() - started) / 1000)} s`)
  if (failed) console.log(`${name}: FAILED, ${findings.length} findings; kept in ${folder}`)
  else {
    rmSync(folder, { recursive: true, force: true })
    console.log(interrupted ? `${name}: ended early, nothing found` : `${name}: passed`)
  }
  process.exit(failed ? 1 : interrupted ? 130 : 0)
}

function writeHistory(folder: string, history: History): void {
  const lines = [...history.images(), ...history.tags()].map((known) => JSON.stringify({ ...known, may: [...known.may] }))
  writeFileSync(join(folder, 'history.jsonl'), `${lines.join('\n')}\n`)
}
