import { Command, CommanderError, Option } from 'commander'
import type { Assets } from '../app.ts'
import { type Config, formatProblems, installedFile, loadConfig } from '../config.ts'
import { exitCodes } from './exit-codes.ts'
import { withSelfSigned } from './self-signed.ts'
import type { CliFailure } from './transport.ts'
import { describeVersion } from './version.ts'

export interface CliDeps {
  assets: Assets
  serve(config: Config, options: ServeOptions): Promise<void>
}

export interface ServeOptions {
  mount: string
  /** for who reads the terminal */
  notes: readonly string[]
  /** what to do with a database that is older than its blobs */
  rollback: 'refuse' | 'accept'
}

/** Runs one command line. Ends the process with a code of `exitCodes` where the command does not serve. */
export async function runCli(args: readonly string[], deps: CliDeps): Promise<void> {
  const program = new Command('mcr')
    .description('A self-hosted OCI container registry.')
    .version(args.includes('--verbose') ? await describeVersion(deps.assets) : deps.assets.version)
    .option('--verbose', 'with --version: what it stands on as well')
    .option(
      '--config <file>',
      `configuration file (default: $MCR_CONFIG, else ./mcr.toml, else ${installedFile}, where there is one)`,
    )
    .option(
      '--server <address>',
      'administer the registry at this address, by REST (default: $MCR_SERVER, else that of mcr login)',
    )
    .option('--grpc <address>', 'the same by gRPC: host:port, or http://host:port without TLS')
    .option('--token <token>', 'personal, robot or login token (default: $MCR_TOKEN, else that of mcr login)')
    .option('--ca-cert <file>', 'certificate authority to trust, in PEM')
    .option('--json', 'answers as JSON')
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
  mcr account add alice                         an account, here on the registry's own host
  mcr robot create ci --actions registry:pull registry:push --repositories 'team/**'
                                                an account for machines; its token is shown once
  mcr login https://registry.example.com -u admin
                                                from now on the commands are about that registry
  mcr policy test alice registry:push team/app  may she, and which rule says so
  mcr audit tail --follow                       who does what, as it happens
  mcr config check                              every problem of the configuration at once

Without --server, --grpc and a login, administration opens the database of this host's configuration itself, whether the registry runs
or not: whoever owns the data administers it.

Every setting is a key of mcr.toml and a variable MCR_<SECTION>_<KEY>: see mcr config docs.
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not logged in or not allowed, 4 no such thing,
5 not in the state that was taken for granted, 6 the registry cannot be reached or is busy,
7 what is stored, or a backup of it, is damaged, 8 mcr doctor found something wrong.`,
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
    .option('--accept-rollback', 'go on with a database that is older than its blobs; then mcr verify names what is missing')
    .action(async (options: { mount: string; listen?: string; tls?: string; acceptRollback?: true }) => {
      const config = load(options.listen === undefined ? {} : { 'server.listen_addr': options.listen })
      const prepared = options.tls ? await withSelfSigned(config) : { config, notes: [] }
      await deps.serve(prepared.config, {
        mount: options.mount,
        notes: prepared.notes,
        rollback: options.acceptRollback ? 'accept' : 'refuse',
      })
    })
  try {
    // Serving stands on none of the others, and they on all of the administration: they are loaded by who may ask for one.
    if (program.parseOptions([...args]).operands[0] !== 'serve')
      (await import('./commands.ts')).addCommands(program, deps.assets, load)
    await program.parseAsync(args, { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? exitCodes.ok : exitCodes.usage)
    console.error(`mcr: ${(error as Error).message}`)
    process.exit(codeOf((error as Partial<CliFailure>).status))
  }
}

function codeOf(status: number | undefined): number {
  if (status === 400) return exitCodes.usage
  if (status === 401 || status === 403) return exitCodes.refused
  if (status === 404 || status === 410) return exitCodes.notFound
  if (status === 409 || status === 412) return exitCodes.conflict
  if (status === 429 || status === 503 || status === 507) return exitCodes.unavailable
  return exitCodes.failure
}

function loadOrExit(program: Command, overrides: Record<string, string>): Config {
  const result = loadConfig({ file: program.opts<{ config?: string }>().config, env: process.env, overrides })
  if ('config' in result) return result.config
  console.error(
    `mcr: the configuration has ${result.problems.length === 1 ? 'a problem' : `${result.problems.length} problems`}:\n${formatProblems(result.problems)}`,
  )
  process.exit(exitCodes.usage)
}
