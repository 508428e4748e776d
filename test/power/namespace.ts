import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { findTool } from '../support/process.ts'

/**
 * Runs this program once more, with mounts that nobody else sees, and ends with it; comes back at once where that is so already. A copy of a
 * mount in another's namespace (a service, a container) would keep a file system alive that was cut off and unmounted here. And whatever
 * becomes of the test, its mounts are gone with it.
 */
export async function withOwnMounts(): Promise<void> {
  if (process.env.MCR_TEST_MOUNTS === 'own') return
  const unshare = findTool('unshare')
  if (!unshare) throw new Error('unshare of util-linux is not installed')
  const args = ['--mount', '--propagation', 'private', process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const child = spawn(unshare, args, { stdio: 'inherit', env: { ...process.env, MCR_TEST_MOUNTS: 'own' } })
  // Ctrl-C reaches it by itself.
  process.on('SIGINT', () => undefined)
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  const [status] = (await once(child, 'exit')) as [number | null]
  process.exit(status ?? 1)
}
