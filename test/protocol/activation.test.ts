// Listening sockets that are handed to the program, and how a process whose address lives on takes its leave. Runs the build.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { Agent, type IncomingMessage, request } from 'node:http'
import { connect } from 'node:http2'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { holdSocket } from '../../runtime/sockets.ts'
import { killAtExit, listeningPort, makeCertificate, mcrCommand, password, spawnRegistry } from '../support/process.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-activation-'))
after(() => rmSync(scratch, { recursive: true, force: true }))
const authorization = `Basic ${btoa(`admin:${password}`)}`
const settings = (name: string) => ({
  PATH: process.env.PATH,
  HOME: process.env.HOME,
  MCR_LOG_FORMAT: 'json',
  MCR_STORAGE_ROOT: join(scratch, name),
  MCR_STORAGE_FREE_FLOOR: '0',
  MCR_AUTH_BOOTSTRAP_PASSWORD: password,
})

/** As an init system starts it: with descriptors 3 and on, and a variable that holds its own number. */
function startWith(fds: readonly number[], names: string, env: Record<string, string | undefined>): ChildProcess {
  const command = mcrCommand().map((word) => `'${word}'`)
  const child = spawn('sh', ['-c', `LISTEN_PID=$$ exec ${command.join(' ')} serve`], {
    env: { ...env, LISTEN_FDS: String(fds.length), LISTEN_FDNAMES: names },
    stdio: ['ignore', 'pipe', 'pipe', ...fds],
  })
  killAtExit(child)
  return child
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
}

function ask(options: object): Promise<{ status: number; headers: IncomingMessage['headers'] }> {
  return new Promise((resolve, reject) => {
    const req = request({ headers: { authorization, host: 'localhost' }, ...options }, (res) => {
      res.resume()
      res.once('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers }))
      res.once('error', reject)
    })
    req.once('error', reject)
    req.end()
  })
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

test('systemd-socket-activate: started by the first request, which is answered; each socket is what its name says', async () => {
  const [port, adminPort, path] = [await freePort(), await freePort(), join(scratch, 'registry.sock')]
  const words = ['-l', `127.0.0.1:${port}`, '-l', path, '-l', `127.0.0.1:${adminPort}`, '--fdname=registry:also:admin']
  const env = Object.entries(settings('activate')).map(([name, value]) => `${name}=${value}`)
  const child = spawn('systemd-socket-activate', [...words, 'env', ...env, ...mcrCommand(), 'serve'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  after(() => child.kill('SIGKILL'))
  let said = ''
  child.stderr.on('data', (chunk) => {
    said += chunk
  })
  while ((said.match(/Listening on/g) ?? []).length < 3) await sleep(20)
  assert.equal((await ask({ port, path: '/v2/' })).status, 200)
  assert.equal((await ask({ socketPath: path, path: '/v2/' })).status, 200)
  assert.equal((await ask({ port, path: '/v1/accounts' })).status, 404, 'the administration is on its own listener')
  assert.equal((await ask({ port: adminPort, path: '/v1/accounts' })).status, 200)
  assert.equal((await ask({ port: adminPort, path: '/v2/' })).status, 404)
  await end(child)
  assert.equal(child.exitCode, 0)
  assert.ok(statSync(path).isSocket(), 'the socket is not ours to remove')
})

test('what would send passwords in the clear is refused on a handed socket too; other variables are not for us', async () => {
  const socket = await holdSocket(`0.0.0.0:${await freePort()}`, 'registry')
  const refused = startWith([socket.fd], '', settings('clear'))
  let said = ''
  refused.stderr?.on('data', (chunk) => {
    said += chunk
  })
  await once(refused, 'close')
  assert.equal(refused.exitCode, 1)
  assert.match(said, /passwords in the clear/)
  socket.close()
  const [file, ...args] = mcrCommand()
  const other = spawn(file, [...args, 'serve'], {
    env: { ...settings('other'), MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0', LISTEN_PID: '1', LISTEN_FDS: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const port = await listeningPort(other)
  assert.equal((await ask({ port, path: '/v2/' })).status, 200)
  await end(other)
})

test('with workers the parent holds what nobody hands it, and addresses stay what they were until a restart', async () => {
  const [port, adminPort, laterPort] = [await freePort(), await freePort(), await freePort()]
  const socket = await holdSocket(`127.0.0.1:${port}`, 'registry')
  const file = join(scratch, 'workers.toml')
  const lines = ['[server]', 'workers = 2', 'listen_addr = "0.0.0.0:1"', `admin_addr = "127.0.0.1:${adminPort}"`]
  writeFileSync(file, lines.join('\n'))
  const child = startWith([socket.fd], '', { ...settings('workers'), MCR_CONFIG: file })
  let log = ''
  child.stdout?.on('data', (chunk) => {
    log += chunk
  })
  const said = async (what: RegExp) => {
    for (let waited = 0; !what.test(log); waited += 50) {
      assert.ok(waited < 30_000, log)
      await sleep(50)
    }
  }
  await said(/"event":"listening"/)
  assert.equal(log.match(/"event":"worker_serves"/g)?.length, 2, log)
  assert.equal((await ask({ port, path: '/v1/accounts' })).status, 404)
  assert.equal((await ask({ port: adminPort, path: '/v1/accounts' })).status, 200)
  writeFileSync(file, [...lines, `grpc_addr = "127.0.0.1:${laterPort}"`].join('\n'))
  child.kill('SIGHUP')
  await said(/"state":"(done|given up)"/)
  assert.doesNotMatch(log, /given up/)
  await end(child)
  socket.close()
})

test('a part with workers leaves the address of gRPC to the part that mounts it', async () => {
  const grpc = join(scratch, 'part-grpc.sock')
  const start = async (part: string) => {
    const env = {
      ...settings('parts'),
      MCR_SERVER_WORKERS: '1',
      MCR_SERVER_LISTEN_ADDR: `unix:${scratch}/${part}.sock`,
      MCR_SERVER_GRPC_ADDR: `unix:${grpc}`,
    } as Record<string, string>
    const child = spawnRegistry(['--mount', part], env)
    await listeningPort(child)
    return child
  }
  const [admin, auth] = [await start('admin'), await start('auth')]
  await end(admin)
  assert.ok(statSync(grpc).isSocket(), 'the socket of the part that serves')
  const again = await start('admin')
  await end(again)
  await end(auth)
})

test('a process that leaves says so on its connections before it closes them, and the next one is already there', async () => {
  const { cert, key } = makeCertificate(scratch)
  const [port, securePort] = [await freePort(), await freePort()]
  for (const [scheme, at] of [
    ['http', port],
    ['https', securePort],
  ] as const) {
    const socket = await holdSocket(`127.0.0.1:${at}`, 'registry')
    const env = { ...settings(scheme), ...(scheme === 'https' ? { MCR_SERVER_TLS_CERT: cert, MCR_SERVER_TLS_KEY: key } : {}) }
    const first = startWith([socket.fd], '', env)
    await listeningPort(first)
    const second = startWith([socket.fd], '', env)
    await listeningPort(second)
    if (scheme === 'http') {
      const [own, others] = (await connectionsOf([first, second], port)) as [Agent[], Agent[]]
      let gone = false
      first.once('exit', () => {
        gone = true
      })
      const last = async (agent: Agent) => {
        const seen: (string | undefined)[] = []
        while (!gone) {
          const { status, headers } = await ask({ agent, port, path: '/v2/' })
          assert.equal(status, 200)
          seen.push(headers.connection)
        }
        return seen
      }
      const [leaving, staying] = [last(own[0] as Agent), last(others[0] as Agent)]
      await sleep(100)
      first.kill('SIGTERM')
      assert.equal((await leaving).filter((value) => value === 'close').length, 1, 'told once, then on a connection of the other')
      assert.ok((await staying).every((value) => value !== 'close'))
    } else {
      second.kill('SIGTERM')
      await once(second, 'exit')
      const session = connect(`https://localhost:${securePort}`, { ca: readFileSync(cert) })
      const told: number[] = []
      session.on('goaway', (code, last) => {
        if (code === 0) told.push(last as number)
      })
      const stream = session.request({
        ':method': 'POST',
        ':path': '/v2/leaving/app/blobs/uploads/',
        authorization,
        'content-length': 4,
      })
      const answer = once(stream, 'response')
      stream.write('ab')
      await sleep(300)
      first.kill('SIGTERM')
      while (told.length === 0) await sleep(20)
      stream.end('cd')
      const [headers] = await answer
      assert.equal(headers[':status'], 202, 'what runs is answered')
      stream.resume()
      await once(session, 'close')
      assert.equal(told[0], 2 ** 31 - 1, 'the first GOAWAY refuses nothing')
    }
    if (first.exitCode === null) await once(first, 'exit')
    assert.equal(first.exitCode, 0)
    await end(second)
    socket.close()
  }
})

/** Kept connections, some of one process and some of the other: the logs say who answered. */
async function connectionsOf(children: readonly ChildProcess[], port: number): Promise<Agent[][]> {
  const logs = children.map(() => '')
  for (const [index, child] of children.entries())
    child.stdout?.on('data', (chunk) => {
      logs[index] += chunk
    })
  const found: Agent[][] = children.map(() => [])
  for (let count = 0; count < 300 && found.some((agents) => agents.length === 0); count++) {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    assert.equal((await ask({ agent, port, path: `/v2/?n=${count};` })).status, 200)
    while (!logs.some((log) => log.includes(`/v2/?n=${count};`))) await sleep(10)
    found[logs.findIndex((log) => log.includes(`/v2/?n=${count};`))]?.push(agent)
  }
  assert.ok(found.every((agents) => agents.length > 0))
  return found
}
