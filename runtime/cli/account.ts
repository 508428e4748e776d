import { Command } from 'commander'
import { accountOperations } from '../../lib/admin/accounts.ts'
import { AdminService } from '../../lib/admin/gen/mcr/v1/admin_pb.ts'
import { fromRest, toRest } from '../../lib/admin/json.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { askSecret } from './ask.ts'
import type { OpenSession } from './operations.ts'

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
        await say(
          create,
          input,
          open,
          ({ account_type: kind, roles }) => `added ${name} (${[kind, ...(roles as string[])].join(', ')})`,
        )
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
        await say(
          update,
          { account: name, generate_password: options.generate === true, ...password },
          open,
          () => `changed the password of ${name}`,
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
          await say(update, { account: name, disabled }, open, () => `${word}d ${name}`)
        }),
    )
}

async function askPassword(options: { passwordStdin?: true }): Promise<string> {
  const password = await askSecret('Password: ', { stdin: options.passwordStdin, insteadOf })
  if (password.length < 8) throw new Error('a password of at least 8 characters, please')
  return password
}

/** Asks, and says in a line what was done; a password that was made is shown once. */
async function say(
  operation: Operation,
  input: Record<string, unknown>,
  open: OpenSession,
  what: (account: Record<string, unknown>) => string,
): Promise<void> {
  const session = await open()
  try {
    const message = await session.transport.call(operation, fromRest(operation.method.input, input))
    const answer = toRest(operation.method.output, message)
    if (session.json) console.log(JSON.stringify(answer, null, 2))
    else {
      console.log(what(answer.account as Record<string, unknown>))
      if (answer.password) console.log(`password: ${answer.password}`)
    }
  } finally {
    await session.close()
  }
}
