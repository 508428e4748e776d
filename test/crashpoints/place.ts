import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Disk, makeDisk } from '../power/disk.ts'
import type { Run } from '../workload/run.ts'

/** Makes a folder of a run. Shape: for `power` a disk in it that can lose its own. */
export function makePlace(folder: string, test: Run, kind: 'kill' | 'power'): Disk | undefined {
  mkdirSync(folder)
  if (kind === 'kill') return undefined
  const disk = makeDisk(join(folder, 'disk'), 'ext4')
  test.onEnd(disk.remove)
  return disk
}
