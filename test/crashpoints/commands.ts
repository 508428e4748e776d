import { join } from 'node:path'
import { startFleet } from '../workload/fleet.ts'
import { bytesNamed, sha256 } from '../workload/random.ts'
import type { Run } from '../workload/run.ts'
import { makePlace } from './place.ts'
import { changes, injectKill } from './strace.ts'

/**
 * Snapshot and restore, processes of their own: killed before every call that changes the disk. A snapshot that was cut short leaves the
 * directory whole, with the ones before it; a restore that was cut short leaves no database, or one with everything it names. With `power`
 * only restores, to a disk of their own whose power goes after each, also after the one that ended. Their registry is one of its own with a single blob: each
 * file they copy is written by the same calls.
 * Shape: how many points.
 */
export async function killCommands(within: string, test: Run, kind: 'kill' | 'power'): Promise<number> {
  const { finding, interrupted } = test
  const folder = join(within, 'commands')
  const disk = makePlace(folder, test, kind)
  const root = join(folder, 'data')
  const fleet = await startFleet({ root, database: join(root, 'mcr.db'), logs: join(folder, 'logs') }, ['all'], {})
  test.onEnd(fleet.killAll)
  const { every = 1, from = 1 } = test.numbers
  const over = () => interrupted() || test.findings.length > 0
  const bytes = bytesNamed('in every snapshot', 50_000)
  const pushed = await fleet.probe('POST', `/v2/kept/app/blobs/uploads/?digest=${sha256(bytes)}`, { body: bytes })
  if (pushed.status !== 201) finding(`a push for the snapshot: ${pushed.status} ${pushed.body}`)
  const snapshots = join(folder, 'snapshots')
  const run = async (words: readonly string[], under: readonly string[] = []) => {
    const ended = await fleet.command(words, under).done
    if (ended.code === 127) throw new Error(ended.output)
    return ended
  }
  const must = async (words: readonly string[], after: string) => {
    const { code, output } = await run(words)
    if (code !== 0) finding(`mcr ${words.join(' ')} ended with ${code} after ${after}: ${output}`)
  }
  const tar = join(folder, 'snapshot.tar')
  for (const target of [snapshots, tar]) await must(['snapshot', target], 'nothing')
  let points = 0
  for (const call of disk ? [] : ([...changes, 'link', 'linkat'] as const))
    for (let nth = from; !over(); nth += every) {
      const at = `a snapshot was killed at ${call} ${nth}`
      if ((await run(['snapshot', snapshots], injectKill(call, nth))).code === 0) break
      points++
      test.progress(at)
      await must(['restore', '--verify', snapshots], at)
    }
  for (const [form, source] of [
    ['directory', snapshots],
    ['tar', tar],
  ] as const)
    for (const call of changes)
      for (let nth = from; !over(); nth += every) {
        const restored = join(disk?.path ?? folder, `restored-${form}-${call}-${nth}`)
        const ended = (await run(['restore', source, restored], injectKill(call, nth))).code === 0
        if (ended && !disk) break
        const at = `a restore from a ${form} ${ended ? 'ended' : `was killed at ${call} ${nth}`}${disk ? ', and the power went' : ''}`
        disk?.cut()
        disk?.remount()
        points++
        test.progress(at)
        const { code, output } = await run(
          ['--json', 'verify', '--deep'],
          [`MCR_STORAGE_ROOT=${restored}`, `MCR_DATABASE_PATH=${restored}/mcr.db`],
        )
        if (code !== 0 && (ended || !/there is no database/.test(output)))
          finding(`mcr verify ended with ${code} after ${at}: ${output}`)
        if (ended) break
        await must(['restore', '--verify', source, `${restored}-again`], at)
      }
  await fleet.killAll()
  for (const surprise of fleet.surprises) finding(surprise)
  return points
}
