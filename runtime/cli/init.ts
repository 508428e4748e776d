import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { exampleFile } from './config.ts'

/** `mcr init`: a place to start from. Never overwrites. */
export function initCommand(): Command {
  return new Command('init')
    .description('write a commented mcr.toml')
    .argument('[directory]', 'where to', '.')
    .action((directory: string) => {
      mkdirSync(directory, { recursive: true, mode: 0o700 })
      const file = join(directory, 'mcr.toml')
      try {
        writeFileSync(file, exampleFile(), { flag: 'wx', mode: 0o600 })
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw new Error(`${file} is there already; it was left as it is`)
        throw error
      }
      console.log(`wrote ${file}\nnext: mcr --config ${file} serve`)
    })
}
