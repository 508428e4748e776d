import { Argument, type Command } from 'commander'
import { operations } from '../../lib/admin/operations.ts'
import type { Assets } from '../app.ts'
import type { Config } from '../config.ts'
import { openLocal } from '../local.ts'
import { copyCommand } from '../snapshot/copy-database.ts'
import { addAccountCommands } from './account.ts'
import { exportCommand } from './audit.ts'
import { completionScript } from './completion.ts'
import { configCommand } from './config.ts'
import { doctorCommand } from './doctor.ts'
import { initCommand } from './init.ts'
import { installCommands } from './install.ts'
import { loginCommands } from './login.ts'
import { addOperation, type OpenSession } from './operations.ts'
import { addPolicyFiles } from './policy.ts'
import { probeCommand } from './probe.ts'
import { repairCommand } from './repair.ts'
import { routesCommand } from './routes.ts'
import { readSavedLogin } from './saved-login.ts'
import { snapshotCommands } from './snapshot.ts'
import { grpcTransport, localTransport, restTransport } from './transport.ts'
import { verifyCommand } from './verify.ts'

/** Every command but `serve`. */
export function addCommands(program: Command, assets: Assets, load: () => Config): void {
  program.addCommand(initCommand())
  program.addCommand(probeCommand(load))
  for (const command of installCommands(assets)) program.addCommand(command)
  const open = openSession(program, load, assets)
  for (const operation of operations) if (!operation.cli.hidden) addOperation(program, operation, open)
  const group = (name: string) => program.commands.find((command) => command.name() === name) as Command
  addAccountCommands(group('account'), open)
  addPolicyFiles(group('policy'), open)
  group('audit').addCommand(exportCommand(open))
  program.addCommand(verifyCommand(open))
  program.addCommand(repairCommand(open))
  const json = () => program.opts<{ json?: true }>().json === true
  for (const command of snapshotCommands({ assets, load, json }))
    program.addCommand(command, { hidden: command.name() === copyCommand })
  program.addCommand(doctorCommand(program, assets, load))
  for (const command of loginCommands(() => program.opts())) program.addCommand(command)
  program
    .command('completion')
    .description('a completion script: source <(mcr completion bash)')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action((shell: string) => {
      process.stdout.write(completionScript(program, shell))
    })
  program.addCommand(configCommand(program, load))
  program.addCommand(routesCommand(program, assets, load))

  const settle = (command: Command) => {
    // Commands that were made apart do not inherit how failures end.
    command.copyInheritedSettings(program)
    command.commands.forEach(settle)
  }
  program.commands.forEach(settle)
}

/** Where the administration's commands go: --grpc, --server, the saved login, or the database of this host. */
function openSession(program: Command, load: () => Config, assets: Assets): OpenSession {
  return async () => {
    const options = program.opts<{
      server?: string
      grpc?: string
      token?: string
      caCert?: string
      json?: true
      config?: string
    }>()
    const named = options.server ?? process.env.MCR_SERVER
    // A configuration named on the command line means this host.
    const saved = options.config === undefined ? readSavedLogin() : undefined
    const server = named ?? (options.grpc === undefined ? saved?.server : undefined)
    const own = named === undefined || named === saved?.server
    const token = options.token ?? process.env.MCR_TOKEN ?? (own ? saved?.token : undefined)
    const caCert = options.caCert ?? (own ? saved?.ca_cert : undefined)
    const json = options.json === true
    const close = async () => undefined
    if (options.grpc !== undefined) return { transport: grpcTransport({ address: options.grpc, token, caCert }), json, close }
    if (server !== undefined) {
      const address = /^https?:\/\//.test(server) ? server : `https://${server}`
      return { transport: restTransport({ address, token, caCert }), json, close }
    }
    const registry = await openLocal(load(), assets)
    return { transport: localTransport(registry), json, close: registry.close }
  }
}
