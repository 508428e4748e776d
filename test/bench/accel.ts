// A blob through nginx after the registry's word (X-Accel-Redirect), beside nginx sending the same file as a static one: alternating rounds.
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../support/ports.ts'
import { password } from '../support/process.ts'
import { startBehind } from '../support/proxies.ts'

const sizes: readonly [name: string, bytes: number, requests: number][] = [
  ['1 MiB', 2 ** 20, 200],
  ['16 MiB', 2 ** 24, 40],
  ['128 MiB', 2 ** 27, 8],
]
const rounds = 5
const parallel = 4

let authorization = `Basic ${btoa(`admin:${password}`)}`

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
  const agent = new Agent({ keepAlive: true, maxSockets: parallel })
  console.log(`size      accel MB/s  static MB/s  ratio  (medians of ${rounds} alternating rounds, ${parallel} at a time)`)
  try {
    // As clients do: one login, and its token with each request.
    const login = await fetch(`http://127.0.0.1:${behind.port}/v2/token?scope=repository:bench/accel:pull,push`, {
      headers: { authorization },
    })
    authorization = `Bearer ${((await login.json()) as { token: string }).token}`
    for (const [name, bytes, requests] of sizes) {
      const content = randomBytes(bytes)
      const hex = createHash('sha256').update(content).digest('hex')
      await get(agent, behind.port, `/v2/bench/accel/blobs/uploads/?digest=sha256:${hex}`, 'POST', content)
      const shard = `sha256/${hex.slice(0, 2)}`
      const file = readdirSync(join(root, 'blobs', shard)).find((entry) => entry.startsWith(hex))
      const ways = [
        { port: behind.port, path: `/v2/bench/accel/blobs/sha256:${hex}`, rates: [] as number[] },
        { port: staticPort, path: `/${shard}/${file}`, rates: [] as number[] },
      ] as const
      for (const { port, path } of ways) await measure(agent, port, path, requests, bytes)
      for (let round = 0; round < rounds; round++)
        // Whoever is first in one round is second in the next.
        for (const way of round % 2 === 0 ? ways : ways.toReversed())
          way.rates.push(await measure(agent, way.port, way.path, requests, bytes))
      const [handed, plain] = ways.map(({ rates }) => median(rates)) as [number, number]
      const ratios = median(ways[0].rates.map((rate, index) => rate / (ways[1].rates[index] as number)))
      console.log(
        `${name.padEnd(8)}  ${String(Math.round(handed / 1e6)).padStart(10)}  ${String(Math.round(plain / 1e6)).padStart(11)}  ${ratios.toFixed(2).padStart(5)}`,
      )
    }
  } finally {
    agent.destroy()
    await behind.stop()
    rmSync(root, { recursive: true, force: true })
  }
}

async function get(agent: Agent, port: number, path: string, method = 'GET', body?: Uint8Array): Promise<number> {
  return await new Promise((resolve, reject) => {
    const req = request({ host: '127.0.0.1', port, path, method, agent, headers: { authorization } }, (res) => {
      let bytes = 0
      res.on('data', (chunk: Buffer) => {
        bytes += chunk.length
      })
      res.on('end', () =>
        res.statusCode === 200 || res.statusCode === 201 ? resolve(bytes) : reject(new Error(`${path}: ${res.statusCode}`)),
      )
      res.on('error', reject)
    })
    req.on('error', reject)
    req.end(body)
  })
}

/** Bytes a second of so many requests, some at a time. */
async function measure(agent: Agent, port: number, path: string, requests: number, bytes: number): Promise<number> {
  let left = requests
  const started = performance.now()
  await Promise.all(
    Array.from({ length: parallel }, async () => {
      while (left-- > 0) if ((await get(agent, port, path)) !== bytes) throw new Error(`${path}: not ${bytes} bytes`)
    }),
  )
  return (requests * bytes) / ((performance.now() - started) / 1000)
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number
