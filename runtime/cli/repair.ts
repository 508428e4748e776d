import { Command } from 'commander'
import { StorageService } from '../../lib/admin/gen/mcr/v1/storage_pb.ts'
import { fromRest, toRest } from '../../lib/admin/json.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { storageOperations } from '../../lib/admin/storage.ts'
import { askSecret } from './ask.ts'
import { exitCodes } from './exit-codes.ts'
import type { OpenSession } from './operations.ts'

const { name } = StorageService.method.repairStorage
const operation = storageOperations.find(({ method }) => method.name === name) as Operation

interface Options {
  from: string
  username?: string
  passwordStdin?: true
  realmHost?: string[]
  sourceRepository?: string
}

/** `mcr repair`: one line a blob, and a code that says whether any is still damaged. The password is asked for, never an argument. */
export function repairCommand(open: OpenSession): Command {
  return new Command('repair')
    .description(operation.summary)
    .argument('[digests...]', 'only these; without them all that is marked as damaged: run mcr verify --deep first')
    .requiredOption('--from <registry>', 'host or host:port of a registry that has them; http:// on loopback only')
    .option('-u, --username <name>', 'who logs in there')
    .option('--password-stdin', 'read the password or token from standard input')
    .option('--realm-host <host...>', 'the host of its token service, where that is another: logins go nowhere else')
    .option('--source-repository <name>', 'the repository to look in there, where it has another name')
    .addHelpText('after', '\nExit codes: 0 nothing is damaged any more of what was asked for, 7 something still is.')
    .action(async (digests: string[], options: Options) => {
      const { username, passwordStdin: stdin } = options
      const password =
        username === undefined
          ? ''
          : await askSecret(`Password of ${username} at ${options.from}: `, { stdin, insteadOf: 'use --password-stdin' })
      const input = fromRest(operation.method.input, {
        from: options.from,
        username: username ?? '',
        password,
        realm_hosts: options.realmHost ?? [],
        source_repository: options.sourceRepository ?? '',
        digests,
      })
      const session = await open()
      const counts = { healed: 0, other: 0 }
      try {
        for await (const message of session.transport.stream(operation, input)) {
          const repaired = toRest(operation.method.output, message).repaired as Record<string, string>
          counts[repaired.outcome === 'healed' ? 'healed' : 'other']++
          if (session.json) process.stdout.write(`${JSON.stringify(repaired)}\n`)
          else
            console.log(
              `${repaired.outcome}: ${repaired.digest} in ${repaired.repository || 'no repository'} ${repaired.detail}`.trimEnd(),
            )
        }
      } finally {
        await session.close()
      }
      if (!session.json) console.log(`${counts.healed} healed, ${counts.other} still damaged`)
      if (counts.other > 0) process.exitCode = exitCodes.damaged
    })
}
