import { execFileSync } from 'node:child_process'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { findTool } from '../support/process.ts'

export type FileSystem = 'ext4' | 'xfs'

/** A file system of its own in a file, which can lose its power. */
export interface Disk {
  /** Where it is mounted. */
  path: string
  /** From now on nothing reaches it, and what was not synced never did: FS_IOC_SHUTDOWN without flushing the log. */
  cut(): void
  /** Lets go of it and mounts it anew, which replays its own log. Nobody may have a file of it open. */
  remount(): void
  remove(): void
}

/** XFS makes none smaller; the file is sparse. */
const bytes = 400 * 1024 * 1024

/** Errors: a plain Error where this is not root with loop devices, or a tool is missing. */
export function makeDisk(path: string, type: FileSystem): Disk {
  const image = `${path}.img`
  writeFileSync(image, '')
  truncateSync(image, bytes)
  mkdirSync(path)
  run(`mkfs.${type}`, '-q', ...(type === 'ext4' ? ['-F', '-E', 'lazy_itable_init=1,lazy_journal_init=1'] : ['-f']), image)
  let mounted = false
  const mount = () => {
    run('mount', '-o', 'loop', '-t', type, image, path)
    mounted = true
  }
  const unmount = () => {
    if (mounted) run('umount', path)
    mounted = false
  }
  mount()
  return {
    path,
    cut: () => run('xfs_io', '-x', '-c', 'shutdown', path),
    remount() {
      unmount()
      mount()
    },
    remove: unmount,
  }
}

function run(tool: string, ...args: string[]): void {
  const command = findTool(tool)
  if (!command) throw new Error(`${tool} is not installed: .ci/install-clients installs it`)
  try {
    execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  } catch (error) {
    throw new Error(`${tool} ${args.join(' ')} failed; it needs root and loop devices: ${(error as { stderr?: Buffer }).stderr}`)
  }
}
