import { bytes } from './print.ts'

/** How far something is, for who waits: one line that moves on a terminal, now and then a line elsewhere. Standard error; nothing with `--json`. */
export interface ProgressLine {
  tell(text: string): void
  /** Takes the line away before something else is written. */
  clear(): void
}

const lineEveryMs = 15_000

export function createProgressLine(options: { quiet: boolean }): ProgressLine {
  let last = performance.now()
  let shown = false
  const clear = () => {
    if (shown) process.stderr.write('\r\u001b[K')
    shown = false
  }
  return {
    clear,
    tell(text) {
      if (options.quiet) return
      if (process.stderr.isTTY) {
        process.stderr.write(`\r\u001b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`)
        shown = true
      } else if (performance.now() - last >= lineEveryMs) {
        last = performance.now()
        process.stderr.write(`${text}\n`)
      }
    },
  }
}

/** `3 of 10 (1.0 KiB of 4.0 KiB)`: what is known of it. */
export function formatProgress(done: number, total: number, doneBytes = 0, totalBytes = 0): string {
  const most = total > 0 ? ` of ${total}` : ''
  return `${done}${most}${totalBytes > 0 ? ` (${bytes(doneBytes)} of ${bytes(totalBytes)})` : ''}`
}
