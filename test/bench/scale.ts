import { ask, blobMaker, many, pushImage, type Sample } from './load.ts'
import { cpuSeconds, median, startMcr } from './peers.ts'
import { addRepositories, addTags, withRows } from './synthetic.ts'

/** Tag push, tag HEAD, tag page and catalog page at 100 tags and at 1,000,000: the ratio of the server's CPU for one. */
export async function scale(): Promise<void> {
  const results = new Map<string, Map<number, Sample>>()
  for (const count of [100, 1_000_000]) {
    const mcr = await startMcr()
    await mcr.token(['scale/app'])
    await pushImage(mcr, 'scale/app', 'first', blobMaker(1000)())
    await withRows(mcr.dir, async (database) => {
      await addTags(database, 'scale/app', count)
      await addRepositories(database, Math.min(count, 100_000), 0)
    })
    const middle = String(Math.floor(count / 2)).padStart(8, '0')
    const manifest = await fetch(`${mcr.url}/v2/scale/app/manifests/first`, { headers: mcr.headers }).then((response) =>
      response.text(),
    )
    const headers = { 'content-type': 'application/vnd.docker.distribution.manifest.v2+json' }
    const rows: [string, number, (index: number) => Promise<unknown>][] = [
      ['tag push', 500, (index) => ask(mcr, 'PUT', `/v2/scale/app/manifests/new${index}-${Math.random()}`, manifest, headers)],
      ['tag HEAD', 5_000, (index) => ask(mcr, 'HEAD', `/v2/scale/app/manifests/t${String(index % count).padStart(8, '0')}`)],
      ['tag page of 100', 2_000, () => ask(mcr, 'GET', `/v2/scale/app/tags/list?n=100&last=t${middle}`)],
      ['catalog page of 50', 500, () => ask(mcr, 'GET', '/v2/_catalog?n=50&last=synthetic/r0000040')],
    ]
    for (const [name, times, work] of rows) {
      await many(mcr, Math.ceil(times / 5), 4, async (index) => void (await work(index + 1_000_000)))
      const samples: Sample[] = []
      for (let round = 0; round < 3; round++) samples.push(await many(mcr, times, 4, async (index) => void (await work(index))))
      const byCount = results.get(name) ?? new Map<number, Sample>()
      results.set(name, byCount)
      byCount.set(count, {
        rate: median(samples.map((sample) => sample.rate)),
        cpuMs: median(samples.map((sample) => sample.cpuMs)),
      })
    }
    console.log(`${count} tags: ${cpuSeconds(mcr.pid).toFixed(1)} s of CPU in all`)
    await mcr.stop()
  }
  console.log('CPU ms for one       at 100   at 1,000,000   ratio')
  for (const [name, byCount] of results) {
    const [few, lots] = [byCount.get(100)?.cpuMs ?? 0, byCount.get(1_000_000)?.cpuMs ?? 0]
    console.log(`${name.padEnd(20)} ${few.toFixed(3).padEnd(8)} ${lots.toFixed(3).padEnd(14)} ${(lots / few).toFixed(2)}`)
  }
}
