import { Command, CommanderError, Option } from 'commander'
import type { Assets } from '../app.ts'
import { type Config, formatProblems, loadConfig } from '../config.ts'
import { accountCommand } from './account.ts'
import { configCommand } from './config.ts'
import { initCommand } from './init.ts'
import { formatRoutes } from './routes.ts'
import { withSelfSigned } from './self-signed.ts'

export interface CliDeps {
  assets: Assets
  serve(config: Config, options: { mount: string; notes: readonly string[] }): Promise<void>
}

/** Codes a script can rely on. */
export const exitCodes = { ok: 0, failure: 1, usage: 2 } as const

/** Runs one command line. Ends the process with a code of `exitCodes` where the command does not serve. */
export async function runCli(args: readonly string[], deps: CliDeps): Promise<void> {
  const program = new Command('mcr')
    .description('A self-hosted OCI container registry.')
    .version(deps.assets.version)
    .option('--config <file>', 'configuration file (default: $MCR_CONFIG, else ./mcr.toml if there is one)')
    .configureOutput({ writeErr: (text) => process.stderr.write(text) })
    .exitOverride()
    .addHelpText(
      'after',
      `
Examples:
  mcr serve                                     serve on http://127.0.0.1:5000, data in ./data
  mcr serve --listen 0.0.0.0:5000 --tls self-signed
                                                serve a LAN; prints how clients learn to trust it
  mcr init /etc/mcr                             write a commented mcr.toml
  mcr account add ci --system --generate        an account for machines, password shown once
  mcr config check                              every problem of the configuration at once

Every setting is a key of mcr.toml and a variable MCR_<SECTION>_<KEY>: see mcr config docs.
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.`,
    )

  const load = (overrides: Record<string, string> = {}): Config => loadOrExit(program, overrides)

  program
    .command('serve')
    .description('serve the registry, or the part of it that a mount list names')
    .option(
      '--mount <list>',
      `which handlers and jobs this process runs: ${Object.keys(deps.assets.mounts).join(', ')}, or a file`,
      'all',
    )
    .option('--listen <address>', 'overrides server.listen_addr')
    .addOption(
      new Option('--tls <how>', 'self-signed: make a certificate for this machine and say how clients trust it').choices([
        'self-signed',
      ]),
    )
    .action(async (options: { mount: string; listen?: string; tls?: string }) => {
      const config = load(options.listen === undefined ? {} : { 'server.listen_addr': options.listen })
      const prepared = options.tls ? await withSelfSigned(config) : { config, notes: [] }
      await deps.serve(prepared.config, { mount: options.mount, notes: prepared.notes })
    })
  program.addCommand(initCommand())
  program.addCommand(accountCommand(load, deps.assets))
  program.addCommand(configCommand(program, load))
  program
    .command('routes')
    .description('every route, with what it needs')
    .action(() => {
      process.stdout.write(formatRoutes(deps.assets.routes))
    })

  try {
    await program.parseAsync(args, { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? exitCodes.ok : exitCodes.usage)
    console.error(`mcr: ${(error as Error).message}`)
    process.exit(exitCodes.failure)
  }
}

function loadOrExit(program: Command, overrides: Record<string, string>): Config {
  const result = loadConfig({ file: program.opts<{ config?: string }>().config, env: process.env, overrides })
  if ('config' in result) return result.config
  console.error(
    `mcr: the configuration has ${result.problems.length === 1 ? 'a problem' : `${result.problems.length} problems`}:\n${formatProblems(result.problems)}`,
  )
  process.exit(exitCodes.usage)
}
