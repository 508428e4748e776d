import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const root = new URL('../../', import.meta.url).pathname
const exec = promisify(execFile)

/** A machine of its own with a real systemd: `systemctl` there does what it does on a server. */
export interface Machine {
  /** Runs a command in it. Shape: what it printed. Errors: where it fails, with what it printed. */
  run(command: string, ...args: string[]): Promise<string>
  /** The command line that runs a program of this machine in the other's network. */
  inNetwork(command: string, args: readonly string[]): [file: string, args: string[]]
  /** Where a path of it is for this process. */
  path(inside: string): string
  write(inside: string, text: string, mode?: number): void
  stop(): Promise<void>
}

/** Starts one and installs the build in it: program, user, units, an empty configuration. Errors: where this needs root, or systemd is missing. */
export async function startMachine(): Promise<Machine> {
  if (process.getuid?.() !== 0) throw new Error('a machine in namespaces needs root')
  if (!existsSync('/lib/systemd/systemd')) throw new Error('systemd is not installed: .ci/install-clients installs it')
  const directory = mkdtempSync(join(tmpdir(), 'mcr-machine-'))
  const flags = ['--net', '--pid', '--fork', '--kill-child', '--mount', '--uts', '--ipc', '--cgroup', '--propagation', 'private']
  const holder = spawn('unshare', [...flags, join(root, 'test/support/machine.sh'), directory, root], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const kill = () => holder.kill('SIGKILL')
  process.once('exit', kill)
  const pid = await firstProcess(holder)
  const enter = (spaces: readonly string[]) => ['-t', String(pid), ...spaces]
  const run = async (command: string, ...args: string[]) => {
    const words = [...enter(['-n', '-p', '-m', '-u', '-i', '-C', '-r', '-w']), command, ...args]
    const { stdout, stderr } = await exec('nsenter', words, { maxBuffer: 64 * 2 ** 20 })
    return `${stdout}${stderr}`
  }
  const path = (inside: string) => `/proc/${pid}/root${inside}`
  const machine: Machine = {
    run,
    path,
    inNetwork: (command, args) => ['nsenter', [...enter(['-n']), command, ...args]],
    write(inside, text, mode = 0o644) {
      mkdirSync(path(dirname(inside)), { recursive: true })
      writeFileSync(path(inside), text, { mode })
    },
    async stop() {
      process.off('exit', kill)
      kill()
      if (holder.exitCode === null && holder.signalCode === null) await once(holder, 'exit')
      rmSync(directory, { recursive: true, force: true })
    },
  }
  await isUp(machine)
  await run('ip', 'link', 'set', 'lo', 'up')
  await install(machine)
  return machine
}

/** systemd's number for this process: the child of `unshare`, once it is systemd. */
async function firstProcess(holder: ChildProcess): Promise<number> {
  for (let waited = 0; waited < 30_000; waited += 100) {
    if (holder.exitCode !== null) throw new Error(`the machine did not start (exit ${holder.exitCode})`)
    const [child] = readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8').split(' ')
    if (child && readFileSync(`/proc/${child}/comm`, 'utf8').trim() === 'systemd') return Number(child)
    await sleep(100)
  }
  throw new Error('the machine did not come up')
}

async function isUp({ run }: Machine): Promise<void> {
  let last = ''
  for (let waited = 0; waited < 60_000; waited += 200) {
    last = await run('systemctl', 'is-system-running').catch(
      (error: { stdout?: string; message: string }) => error.stdout || error.message,
    )
    if (/^(running|degraded)/.test(last)) return
    await sleep(200)
  }
  throw new Error(`systemd did not come up: ${last}`)
}

/** As `mcr install` does, with the executable where `MCR_TEST_COMMAND` names it; else the bundle and its Node behind the same name. */
async function install(machine: Machine): Promise<void> {
  const { run, write } = machine
  const executable = process.env.MCR_TEST_COMMAND
  if (executable) {
    await run(`/opt/mcr/${executable}`, 'install')
    return
  }
  const node = join('/opt/mcr', relative(root, realpathSync(process.execPath)))
  write('/usr/local/bin/mcr', `#!/bin/sh\nexec ${node} /opt/mcr/dist/mcr.cjs "$@"\n`, 0o755)
  await run(
    'useradd',
    '--system',
    '--user-group',
    '--no-create-home',
    '--home-dir',
    '/var/lib/mcr',
    '--shell',
    '/usr/sbin/nologin',
    'mcr',
  )
  write('/etc/mcr/mcr.toml', '[storage]\nroot = "/var/lib/mcr"\n')
  for (const unit of readdirSync(join(root, 'deploy/systemd')))
    write(`/etc/systemd/system/${unit}`, readFileSync(join(root, 'deploy/systemd', unit), 'utf8'))
  await run('systemctl', 'daemon-reload')
}
