import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs'

const inodeCheckMs = 5_000

/**
 * Notices every commit of every process by SQLite's own change counter: the header of the WAL index, which each commit and checkpoint
 * rewrites before it returns. The file is opened once and never closed while the database is open: closing any descriptor of it would
 * drop this process's POSIX locks, and two writers would commit over each other.
 */
export function watchChanges(
  path: string,
  onFatal: (error: Error) => void,
): { revision: () => number; pagesNotCopied: () => number; close: () => void } {
  const file = `${path}-shm`
  const fd = openSync(file, 'r')
  const inode = fstatSync(fd).ino
  const header = Buffer.alloc(96)
  let last: Buffer = Buffer.alloc(96)
  let spare: Buffer = header
  let counter = 1
  const check = setInterval(() => {
    let now: number | undefined
    try {
      now = statSync(file).ino
    } catch {
      now = undefined
    }
    if (now !== inode) onFatal(new Error(`${file} was replaced while this process has it open`))
  }, inodeCheckMs)
  check.unref()
  return {
    revision() {
      readSync(fd, spare, 0, 96, 0)
      // Two copies that differ: a commit is under way, and whatever it is, it is a change.
      if (spare.compare(last) !== 0 || spare.compare(spare, 48, 96, 0, 48) !== 0) {
        counter++
        const previous = last
        last = spare
        spare = previous
      }
      return counter
    },
    /** mxFrame of the header, and nBackfill behind its two copies (sqlite3 wal.c, WalIndexHdr and WalCkptInfo), in this machine's order. */
    pagesNotCopied() {
      const whole = new Uint32Array(25)
      readSync(fd, whole, 0, 100, 0)
      return (whole[4] as number) - (whole[24] as number)
    },
    close() {
      clearInterval(check)
      closeSync(fd)
    },
  }
}
