import { readFileSync } from 'node:fs'
import { Command } from 'commander'
import { PolicyService } from '../../lib/admin/gen/mcr/v1/policy_pb.ts'
import { fromRest, toRest } from '../../lib/admin/json.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { policyOperations } from '../../lib/admin/policy.ts'
import { policyQuestions } from '../../lib/admin/policy-questions.ts'
import { confirm } from './ask.ts'
import { type OpenSession, runOperation } from './operations.ts'
import { formatChanges, formatRules, parseRules } from './rules-file.ts'

const find = (method: { name: string }): Operation =>
  [...policyOperations, ...policyQuestions].find((operation) => operation.method.name === method.name) as Operation
const list = find(PolicyService.method.listRules)
const apply = find(PolicyService.method.applyRules)
const replay = find(PolicyService.method.replayPolicy)

/** What of the policy is about a whole file of rules. */
export function addPolicyFiles(policy: Command, open: OpenSession): void {
  policy.addCommand(
    new Command('export').description('write the rules as one TOML file, to standard output').action(async () => {
      const session = await open()
      try {
        const message = await session.transport.call(list, fromRest(list.method.input, { n: 1000 }))
        const { rules } = toRest(list.method.output, message) as { rules: { managed_by: string }[] }
        process.stdout.write(formatRules(rules.filter((rule) => rule.managed_by === '')))
      } finally {
        await session.close()
      }
    }),
  )
  policy.addCommand(
    new Command('apply')
      .description('make the rules what a TOML file says; shows what changes first')
      .argument('<file>', 'a file as `policy export` writes it, - for standard input')
      .option('--yes', 'do not ask')
      .option('--dry-run', 'only show what would change')
      .action(async (file: string, options: { yes?: true; dryRun?: true }) => {
        const rules = parseRules(readFileSync(file === '-' ? 0 : file, 'utf8'))
        const session = await open()
        try {
          const send = async (dryRun: boolean) =>
            toRest(
              apply.method.output,
              await session.transport.call(apply, fromRest(apply.method.input, { rules, dry_run: dryRun })),
            )
          const diff = await send(true)
          const changes = diff.changes as { change?: unknown }[]
          if (session.json && options.dryRun) console.log(JSON.stringify(diff, null, 2))
          else process.stderr.write(formatChanges(changes, diff.unchanged as number))
          if (options.dryRun || changes.length === 0) return
          if (!options.yes && !process.stdin.isTTY) throw new Error('no terminal to ask on: use --yes, or --dry-run to look only')
          if (!options.yes && !(await confirm('apply?'))) throw new Error('nothing was changed')
          const done = await send(false)
          console.log(session.json ? JSON.stringify(done, null, 2) : 'applied')
        } finally {
          await session.close()
        }
      }),
  )
  policy.addCommand(
    new Command('replay')
      .description('which past requests the rules of a file would have answered differently')
      .requiredOption('--rules <file>', 'a file as `policy export` writes it')
      .option('--since <time>', 'how far back, such as 30d', '30d')
      .action(async (options: { rules: string; since: string }) => {
        const rules = parseRules(readFileSync(options.rules, 'utf8'))
        const match = /^(\d{1,4})([hdw])$/.exec(options.since)
        const since = match
          ? new Date(Date.now() - Number(match[1]) * { h: 3_600_000, d: 86_400_000, w: 604_800_000 }[match[2] as 'h'])
          : new Date(options.since)
        if (Number.isNaN(since.getTime())) throw new Error('--since: a time in RFC 3339 or a duration such as 30d')
        await runOperation(replay, fromRest(replay.method.input, { rules, since: since.toISOString() }), open)
      }),
  )
}
