import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { median } from './peers.ts'
import { firstAnswer } from './start.ts'

const times = 9

/** The single executable of this machine: start to first answer, memory of the idle process, size and the sizes it packs to. */
export async function binary(): Promise<void> {
  const kept = mkdtempSync(join(tmpdir(), 'bench-binary-'))
  const rss: number[] = []
  /** Two seconds later it is idle. */
  const look = async (pid: number) => {
    await new Promise((resolve) => setTimeout(resolve, 2_000))
    rss.push(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024)
  }
  const first: number[] = []
  const again: number[] = []
  await firstAnswer(kept, ['dist/mcr'])
  for (let round = 0; round < times; round++) {
    const dir = mkdtempSync(join(tmpdir(), 'bench-start-'))
    first.push(await firstAnswer(dir, ['dist/mcr'], look))
    rmSync(dir, { recursive: true, force: true })
    again.push(await firstAnswer(kept, ['dist/mcr']))
  }
  rmSync(kept, { recursive: true, force: true })
  const list = (values: number[]) => values.map((value) => value.toFixed(0)).join(' ')
  console.log(`start to first answer, empty directory: median ${median(first).toFixed(0)} ms, of ${list(first)}`)
  console.log(`start to first answer, existing data:   median ${median(again).toFixed(0)} ms, of ${list(again)}`)
  console.log(`idle, resident: median ${median(rss).toFixed(0)} MiB, of ${list(rss)}`)
  const packed = (...command: [string, ...string[]]) =>
    execFileSync('sh', ['-c', `${command.join(' ')} < dist/mcr | wc -c`], { encoding: 'utf8' })
  const size = (bytes: number | string) => `${(Number(bytes) / 1e6).toFixed(1)} MB`
  console.log(
    `size ${size(statSync('dist/mcr').size)}, gzip -9 ${size(packed('gzip', '-9'))}, zstd -19 ${size(packed('zstd', '-19', '-T0'))}, xz -6 ${size(packed('xz', '-6', '-T0'))}`,
  )
}
