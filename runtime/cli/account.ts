import { Command } from 'commander'
import { accountOperations } from '../../lib/admin/accounts.ts'
import { AdminService } from '../../lib/admin/gen/mcr/v1/admin_pb.ts'
import { fromRest, toRest } from '../../lib/admin/json.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { askSecret } from './ask.ts'
import { type OpenSession, runOperation } from './operations.ts'

const find = (method: { name: string }): Operation =>
  accountOperations.find((operation) => operation.method.name === method.name) as Operation
const create = find(AdminService.method.createAccount)
const update = find(AdminService.method.updateAccount)

const insteadOf = 'use --generate or --password-stdin'

/** The commands of accounts that ask for a password. */
export function addAccountCommands(account: Command, open: OpenSession): void {
  account.addCommand(
    new Command('add')
      .description('add an account')
      .argument('<name>')
      .option('--role <role...>', 'roles: admin, user, or your own (people get user by default)')
      .option('--system', 'for machines: no built-in rights')
      .option('--generate', 'make a password and show it once')
      .option('--password-stdin', 'read the password from standard input')
      .action(async (name: string, options: { role?: string[]; system?: true; generate?: true; passwordStdin?: true }) => {
        const password = options.generate ? '' : await askPassword(options)
        const input = { name, roles: options.role ?? [], account_type: options.system ? 'system' : 'human', password }
        await runOperation(create, fromRest(create.method.input, input), open)
      }),
  )
  account.addCommand(
    new Command('passwd')
      .description('set a password; tokens made from the old one stop working at once')
      .argument('<name>')
      .option('--generate', 'make a password and show it once')
      .option('--password-stdin', 'read the password from standard input')
      .action(async (name: string, options: { generate?: true; passwordStdin?: true }) => {
        const password = options.generate ? {} : { password: await askPassword(options) }
        await runOperation(
          update,
          fromRest(update.method.input, { account: name, generate_password: options.generate === true, ...password }),
          open,
        )
      }),
  )
  for (const [word, disabled] of [
    ['disable', true],
    ['enable', false],
  ] as const)
    account.addCommand(
      new Command(word)
        .description(disabled ? 'refuse everything of an account, from the next request on' : 'let an account in again')
        .argument('<name>')
        .action(async (name: string) => {
          const session = await open()
          try {
            const message = await session.transport.call(update, fromRest(update.method.input, { account: name, disabled }))
            if (session.json) console.log(JSON.stringify(toRest(update.method.output, message), null, 2))
            else console.log(`${word}d ${name}`)
          } finally {
            await session.close()
          }
        }),
    )
}

async function askPassword(options: { passwordStdin?: true }): Promise<string> {
  const password = await askSecret('Password: ', { stdin: options.passwordStdin, insteadOf })
  if (password.length < 8) throw new Error('a password of at least 8 characters, please')
  return password
}
