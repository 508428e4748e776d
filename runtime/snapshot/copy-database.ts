import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { isSea } from 'node:sea'

/** The hidden command that the copying process runs. */
export const copyCommand = 'copy-database'

/**
 * Copies a live database by this program as a process of its own: the copying pins the log and holds its thread.
 * Errors: a plain Error with what it said.
 */
export async function copyDatabaseApart(path: string, target: string): Promise<void> {
  const program = isSea() ? [] : [...process.execArgv, process.argv[1] as string]
  const child = spawn(process.execPath, [...program, copyCommand, path, target], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said = `${said}${chunk}`.slice(-2_000)
  })
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  if (code !== 0) throw new Error(`the database could not be copied: ${said.trim() || (signal ?? `exit ${code}`)}`)
}
