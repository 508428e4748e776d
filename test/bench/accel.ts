// A blob through nginx after the registry's word (X-Accel-Redirect), beside nginx sending the same file as a static one: alternating rounds.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../support/ports.ts'
import { password } from '../support/process.ts'
import { startBehind } from '../support/proxies.ts'
import { ask, hammer, pushBlob } from './load.ts'
import { median, type Peer } from './peers.ts'

const sizes: readonly [name: string, bytes: number][] = [
  ['1 MiB', 2 ** 20],
  ['16 MiB', 2 ** 24],
  ['128 MiB', 2 ** 27],
]
const rounds = 5
const load = { connections: 4, seconds: 4 }

/** The ratio is what counts: 0.9 and better. */
export async function accel(): Promise<void> {
  const root = mkdtempSync(join(tmpdir(), 'mcr-bench-accel-'))
  const staticPort = await freePort()
  const behind = await startBehind(
    'nginx',
    { MCR_STORAGE_ROOT: root, MCR_STORAGE_FREE_FLOOR: '0', MCR_AUTH_BOOTSTRAP_PASSWORD: password },
    {
      mounts: ['all'],
      edit: (config) =>
        `${config}\nserver { listen 127.0.0.1:${staticPort}; sendfile on; tcp_nopush on; location / { root ${root}/blobs; } }\n`,
    },
  )
  const peer = (name: string, port: number, headers: Record<string, string>): Peer => ({
    ...{ name, url: `http://127.0.0.1:${port}`, headers },
    // Whose processor time it is nobody asks here.
    pid: process.pid,
    stop: async () => undefined,
  })
  console.log(
    `size      accel MB/s  static MB/s  ratio  (medians of ${rounds} alternating rounds of ${load.seconds} s, ${load.connections} at a time)`,
  )
  try {
    // As clients do: one login, and its token with each request.
    const login = await fetch(`http://127.0.0.1:${behind.port}/v2/token?scope=repository:bench/accel:pull,push`, {
      headers: { authorization: `Basic ${btoa(`admin:${password}`)}` },
    })
    const { token } = (await login.json()) as { token: string }
    const registry = peer('accel', behind.port, { authorization: `Bearer ${token}` })
    const plain = peer('static', staticPort, {})
    for (const [name, bytes] of sizes) {
      const digest = await pushBlob(registry, 'bench/accel', randomBytes(bytes))
      const hex = digest.slice(digest.indexOf(':') + 1)
      const shard = `sha256/${hex.slice(0, 2)}`
      const file = readdirSync(join(root, 'blobs', shard)).find((entry) => entry.startsWith(hex))
      const ways = [
        { peer: registry, path: `/v2/bench/accel/blobs/${digest}`, rates: [] as number[] },
        { peer: plain, path: `/${shard}/${file}`, rates: [] as number[] },
      ] as const
      for (const way of ways) {
        const answer = await ask(way.peer, 'GET', way.path)
        if (answer.status !== 200 || answer.bytes !== bytes)
          throw new Error(`${way.peer.name}: ${answer.status} with ${answer.bytes} bytes`)
        // A registry that runs has compiled what it does often.
        await hammer(way.peer, way.path, load)
      }
      for (let round = 0; round < rounds; round++)
        // Whoever is first in one round is second in the next.
        for (const way of round % 2 === 0 ? ways : ways.toReversed())
          way.rates.push((await hammer(way.peer, way.path, load)).rate * bytes)
      const [handed, sent] = ways.map(({ rates }) => median(rates)) as [number, number]
      const ratio = median(ways[0].rates.map((rate, index) => rate / (ways[1].rates[index] as number)))
      console.log(
        `${name.padEnd(8)}  ${String(Math.round(handed / 1e6)).padStart(10)}  ${String(Math.round(sent / 1e6)).padStart(11)}  ${ratio.toFixed(2).padStart(5)}`,
      )
    }
  } finally {
    await behind.stop()
    rmSync(root, { recursive: true, force: true })
  }
}
