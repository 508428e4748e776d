import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readMountList } from '../../runtime/main.ts'
import { builtInMounts } from './assets.ts'

/**
 * What `--mount` takes for the mount lists of these names, parted by commas, with just these of their jobs: a file in `directory`, or the
 * names where nothing is left out or `jobs` is not given.
 */
export function mountOf(names: string, jobs: readonly string[] | undefined, directory: string): string {
  const list = readMountList(names, { mounts: builtInMounts() })
  const kept = list.jobs.filter((job) => jobs?.includes(job))
  if (jobs === undefined || kept.length === list.jobs.length) return names
  const file = join(directory, `${names.replaceAll(',', '-')}.toml`)
  writeFileSync(file, `handlers = ${JSON.stringify(list.handlers)}\njobs = ${JSON.stringify(kept)}\n`)
  return file
}
