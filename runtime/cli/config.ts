import { Command } from 'commander'
import { type Config, formatProblems, installedFile, loadConfig } from '../config.ts'
import { keys } from '../config-keys.ts'

/** `mcr config`: what the configuration says, and what it may say. */
export function configCommand(program: Command, load: () => Config): Command {
  const command = new Command('config').description('look at the configuration')
  command
    .command('check')
    .description('report every problem at once')
    .action(() => {
      const result = loadConfig({ file: program.opts<{ config?: string }>().config, env: process.env })
      if ('problems' in result) {
        console.error(formatProblems(result.problems))
        process.exit(2)
      }
      console.log(`the configuration is good (${result.file ?? 'no file'}, ${result.sources.size} keys set)`)
    })
  command
    .command('show')
    .description('the configuration in force, without secrets')
    .action(() =>
      console.log(
        JSON.stringify(
          {
            ...load(),
            auth: { ...load().auth, bootstrapPassword: undefined },
            database: { ...load().database, authToken: undefined },
          },
          null,
          2,
        ),
      ),
    )
  command
    .command('docs')
    .description('every key as Markdown')
    .action(() => {
      process.stdout.write(documentKeys())
    })
  return command
}

const kindText = (kind: unknown) => (Array.isArray(kind) ? kind.map((entry) => `\`${entry}\``).join(' or ') : String(kind))

/** docs/configuration.md: generated, so that it cannot drift. */
export function documentKeys(): string {
  const parts = [
    '# Configuration\n',
    'Every key has a default; no file is needed. A key stands in `mcr.toml` (`--config`, else `$MCR_CONFIG`, else `./mcr.toml`, else',
    `\`${installedFile}\`, which \`mcr install\` writes) or in the environment as \`MCR_<SECTION>_<KEY>\`, which wins. Unknown keys are refused.`,
    '`mcr config check` reports every problem at once and names the file; this page is printed by `mcr config docs`.\n',
  ]
  for (const [section, entries] of Object.entries(keys)) {
    parts.push(`## ${section}\n`, '| key | kind | default | what it is for |', '|---|---|---|---|')
    for (const [name, key] of Object.entries(entries) as [string, { kind: unknown; byDefault?: string; help: string }][])
      parts.push(`| \`${name}\` | ${kindText(key.kind)} | ${key.byDefault ? `\`${key.byDefault}\`` : ''} | ${key.help} |`)
    parts.push('')
  }
  return `${parts.join('\n').trimEnd()}\n`
}

/** An example file with every key commented out at its default. */
export function exampleFile(): string {
  const lines = ['# Configuration of MCR. Every key is optional; what is commented out is the default.', '']
  for (const [section, entries] of Object.entries(keys)) {
    const own = (Object.entries(entries) as [string, { byDefault?: string; help: string; original?: true }][]).filter(
      ([, key]) => !key.original,
    )
    if (own.length === 0) continue
    lines.push(`[${section}]`)
    for (const [name, key] of own) lines.push(`# ${key.help}`, `# ${name} = ${JSON.stringify(key.byDefault ?? '')}`)
    lines.push('')
  }
  return lines.join('\n')
}
