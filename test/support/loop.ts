import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface LoopDisk {
  path: string
  /** Bytes that an ordinary user may still write. */
  free(): number
  remove(): void
}

/** Why no file system can be mounted here; false where it can. */
export const noLoop: string | false =
  process.getuid?.() !== 0
    ? 'only root mounts file systems'
    : spawnSync('mkfs.ext4', ['-V']).status !== 0
      ? 'mkfs.ext4 is not installed'
      : false

/** A small file system of its own in a file. Nothing is reserved for root, so that full means full. */
export function mountLoop(mebibytes: number): LoopDisk {
  const scratch = mkdtempSync(join(tmpdir(), 'mcr-loop-'))
  const image = join(scratch, 'image')
  const path = join(scratch, 'disk')
  mkdirSync(path)
  execFileSync('truncate', ['-s', `${mebibytes}M`, image])
  execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', image])
  execFileSync('mount', ['-o', 'loop', image, path])
  const remove = () => {
    spawnSync('umount', ['-l', path])
    rmSync(scratch, { recursive: true, force: true })
  }
  process.once('exit', remove)
  return {
    path,
    free() {
      const { bavail, bsize } = statfsSync(path)
      return bavail * bsize
    },
    remove() {
      process.off('exit', remove)
      remove()
    },
  }
}
