// The single executable and the container image, built and run: `npm run test:binary`, with `-- --all` built twice as well, and under the whole protocol suite.
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'
import { findTool } from '../support/process.ts'

const everything = process.argv.includes('--all')
const needed = [
  'apt-get',
  'dpkg-deb',
  'llvm-strip',
  'skopeo',
  'docker',
  'dockerd',
  'docker-compose',
  'crane',
  'helm',
  'kubernetes-validate',
  'openssl',
  'chroot',
  'useradd',
  'systemctl',
  'qemu-aarch64-static',
]
const missing = needed.filter((name) => !findTool(name))
if (missing.length > 0 || process.getuid?.() !== 0) {
  console.log(`these tests run as root on Debian, and need: ${missing.join(', ')}; .ci/install-clients installs them`)
  process.exit(process.env.CI ? 1 : 0)
}
// Whose umask closes everything must get the same image.
const umask = process.umask(0o077)
run('the image', ['deploy/build/image.ts'])
process.umask(umask)
const bounds = ['--test', '--test-timeout=300000', '--test-force-exit', '--test-concurrency=1']
const files = globSync('test/binary/*.test.ts').filter((file) => everything || !file.includes('reproducible'))
run('the executable and the image', [...bounds, ...files.sort()])
run('the executable under systemd', [...bounds, 'test/services/runbook.test.ts'])
const slice = everything ? '*' : '{resume,start,tls}'
run('protocol', [...bounds, ...globSync(`test/protocol/${slice}.test.ts`).sort()], { MCR_TEST_SHAPE: 'binary' })

function run(what: string, args: string[], env: Record<string, string> = {}): void {
  const started = Date.now()
  const { status, signal } = spawnSync(process.execPath, args, {
    stdio: 'inherit',
    env: { ...process.env, MCR_TEST_COMMAND: 'dist/mcr', ...env },
  })
  console.log(`${what}: ${Math.round((Date.now() - started) / 1000)} s`)
  if (status === 0) return
  console.error(`${what} failed (${signal ?? `exit ${status}`})`)
  process.exit(1)
}
