// Restarts of a split registry, one process after another, while real clients push and pull: nobody may notice.
// `npm run test:rolling -- --restarts 200`. A machine with a real systemd, its sockets, and nginx with the configuration that mcr writes.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startClients } from '../support/client-load.ts'
import { startLoad } from '../support/load.ts'
import { startMachine } from '../support/machine.ts'
import { makeCertificate, password } from '../support/process.ts'

const { values } = parseArgs({ options: { restarts: { type: 'string', default: '200' } } })
const restarts = Number(values.restarts)
const parts = ['pull', 'push', 'auth', 'admin'] as const
const host = 'localhost:8443'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-rolling-'))
const { cert, key } = makeCertificate(scratch)
const machine = await startMachine()
const { run, write } = machine
let failed = false
try {
  write(
    '/etc/mcr/mcr.toml',
    `[storage]\nroot = "/var/lib/mcr"\nfree_floor = "0B"\n[auth]\nbootstrap_password = "${password}"\n[server]\npublic_url = "https://${host}"\n`,
  )
  write('/etc/nginx/cert.pem', readFileSync(cert, 'utf8'))
  write('/etc/nginx/key.pem', readFileSync(key, 'utf8'), 0o600)
  await startParts()
  await startNginx()
  const load = await startLoad(machine, { address: host, password, ca: cert })
  const clients = startClients(machine, { host, password, ca: cert, scratch })
  await load.more(20)
  const began = Date.now()
  const restarted: Record<string, number> = {}
  for (let count = 1; count <= restarts; count++) {
    const part = parts[count % parts.length] as string
    const answered = load.answered()
    // So many starts in so short a time are what systemd's limit on them is for.
    await run('systemctl', 'reset-failed', `mcr@${part}.service`)
    await run('systemctl', 'restart', `mcr@${part}.service`)
    restarted[part] = (restarted[part] ?? 0) + 1
    // What runs is not what was: the load goes through the new process before the next one is restarted.
    await load.more(answered + 10)
    const { pushes, pulls, failures } = clients.counts()
    if (failures.length > 0) break
    if (count % 10 === 0 || count === restarts)
      console.log(
        `${count} restarts in ${Math.round((Date.now() - began) / 1000)} s: ${pushes} pushes and ${pulls} pulls by clients, ${load.answered()} requests asked once`,
      )
  }
  // At least one push and pull of each client after the last restart.
  const seen = clients.counts().pulls
  for (let waited = 0; clients.counts().pulls < seen + 3 && clients.counts().failures.length === 0 && waited < 600; waited++)
    await sleep(100)
  await clients.stop()
  const { answered, failures: asked } = await load.stop()
  const { pushes, pulls, failures } = clients.counts()
  const refused = (await run('sh', '-c', `awk '$9 >= 500' /var/log/nginx/access.log`)).trim().split('\n').filter(Boolean)
  const crashed = await run('sh', '-c', `systemctl show -p NRestarts 'mcr@*.service' | grep -v '=0$' | grep . || true`)
  for (const line of [...failures, ...asked, ...refused.slice(0, 20), crashed].filter((text) => text.trim() !== ''))
    console.log(`FAIL  ${line}`)
  const total = failures.length + asked.length
  failed = total + refused.length > 0 || crashed.trim() !== '' || pushes === 0 || pulls === 0
  console.log(
    `${Object.entries(restarted)
      .map(([part, count]) => `${part} ${count}`)
      .join(
        ', ',
      )} restarts; ${pushes} pushes and ${pulls} pulls by crane, oras and skopeo, ${answered} requests that are asked once: ${total} failures, ${refused.length} answers of 500 and above`,
  )
} finally {
  if (failed) console.log(await run('sh', '-c', `journalctl --no-pager | grep -v '"status":[234]' | tail -60`).catch(String))
  await machine.stop()
  rmSync(scratch, { recursive: true, force: true })
}
process.exit(failed ? 1 : 0)

async function startParts(): Promise<void> {
  await run('systemctl', 'enable', '--now', 'mcr-grpc.socket', ...parts.map((part) => `mcr@${part}.service`))
  for (const part of parts)
    await run(
      'curl',
      '-sS',
      '--fail',
      '--retry',
      '60',
      '--retry-delay',
      '1',
      '--unix-socket',
      `/run/mcr/${part}.sock`,
      'http://localhost/readyz',
    )
}

async function startNginx(): Promise<void> {
  const upstreams = parts.flatMap((part) => ['--upstream', `${part}=unix:/run/mcr/${part}.sock`])
  const tls = ['--tls-cert', '/etc/nginx/cert.pem', '--tls-key', '/etc/nginx/key.pem']
  const where = ['--site', `https://${host}`, '--bind', '127.0.0.1', '--grpc-upstream', 'unix:/run/mcr/grpc.sock']
  const config = await run('mcr', '--config', '/etc/mcr/mcr.toml', 'routes', '--nginx', ...upstreams, ...where, ...tls)
  await run('sh', '-c', 'rm -f /etc/nginx/sites-enabled/* /etc/nginx/conf.d/*')
  write('/etc/nginx/conf.d/mcr.conf', config)
  await run('systemctl', 'start', 'nginx')
}
