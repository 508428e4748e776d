import { ask, blobMaker, hammer, many, pushBlob, pushImage, type Sample } from './load.ts'
import { median, memory, type Peer, startDockerRegistry, startMcr } from './peers.ts'

const rounds = 3

/** Manifest GET and HEAD, push and pull of 1 MB and of 100 MB, in alternating rounds; medians. */
export async function beside(): Promise<void> {
  const mcr = await startMcr()
  await mcr.token(['bench/padded', 'bench/push'])
  const other = await startDockerRegistry()
  if (!other) console.log('docker-registry is not installed: no ratios (apt-get install docker-registry)')
  const peers: Peer[] = other ? [mcr, other] : [mcr]
  const rows = new Map<string, Map<string, Sample[]>>()
  const note = (row: string, peer: Peer, sample: Sample) => {
    const byPeer = rows.get(row) ?? new Map<string, Sample[]>()
    rows.set(row, byPeer)
    byPeer.set(peer.name, [...(byPeer.get(peer.name) ?? []), sample])
  }
  try {
    const images = new Map<Peer, { manifest: string; layer: string; large: string }>()
    for (const peer of peers) {
      const image = await pushImage(peer, 'bench/padded', 'v1', blobMaker(1_000_000)())
      images.set(peer, { ...image, large: await pushBlob(peer, 'bench/padded', blobMaker(100_000_000)()) })
    }
    const small = blobMaker(1_000_000)
    const large = blobMaker(100_000_000)
    for (let round = 0; round < rounds; round++) {
      for (const peer of peers) {
        const { manifest, layer, large: largeDigest } = images.get(peer) as { manifest: string; layer: string; large: string }
        const base = '/v2/bench/padded'
        note('manifest GET by tag, req/s', peer, await hammer(peer, `${base}/manifests/v1`, { connections: 16, seconds: 3 }))
        note(
          'manifest GET by digest, req/s',
          peer,
          await hammer(peer, `${base}/manifests/${manifest}`, { connections: 16, seconds: 3 }),
        )
        note(
          'manifest HEAD by tag, req/s',
          peer,
          await hammer(peer, `${base}/manifests/v1`, { connections: 16, seconds: 3, method: 'HEAD' }),
        )
        note('blob GET 1 MB, 8 clients, /s', peer, await hammer(peer, `${base}/blobs/${layer}`, { connections: 8, seconds: 3 }))
        note(
          'blob GET 100 MB, 1 client, /s',
          peer,
          await many(peer, 8, 1, async () => void (await ask(peer, 'GET', `${base}/blobs/${largeDigest}`))),
        )
        note(
          'push 1 MB image, 8 clients, /s',
          peer,
          await many(
            peer,
            80,
            8,
            async (index) => void (await pushImage(peer, 'bench/push', `r${round}-${index}`, Buffer.from(small()))),
          ),
        )
        note(
          'push 100 MB blob, 1 client, /s',
          peer,
          await many(peer, 4, 1, async () => void (await pushBlob(peer, 'bench/push', large()))),
        )
      }
    }
    console.log(
      `${'path'.padEnd(34)} ${peers.map((peer) => peer.name.padEnd(28)).join(' ')} ${other ? 'throughput × · CPU ×' : ''}`,
    )
    for (const [row, byPeer] of rows) {
      const [own, theirs] = peers.map((peer) => {
        const samples = byPeer.get(peer.name) as Sample[]
        return { rate: median(samples.map((sample) => sample.rate)), cpuMs: median(samples.map((sample) => sample.cpuMs)) }
      }) as [Sample, Sample | undefined]
      const show = (sample: Sample) =>
        `${sample.rate.toFixed(sample.rate < 100 ? 2 : 0)} · ${sample.cpuMs.toFixed(3)} ms CPU`.padEnd(28)
      const ratio = theirs ? `${(own.rate / theirs.rate).toFixed(1)} · ${(theirs.cpuMs / own.cpuMs).toFixed(1)}` : ''
      console.log(`${row.padEnd(34)} ${show(own)} ${theirs ? show(theirs) : ''} ${ratio}`)
    }
    for (const peer of peers) console.log(`${peer.name}: ${JSON.stringify(memory(peer.pid))} MB resident`)
  } finally {
    for (const peer of peers) await peer.stop()
  }
}
