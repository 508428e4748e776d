import { Command } from 'commander'
import { auditOperations } from '../../lib/admin/audit.ts'
import { fromRest } from '../../lib/admin/json.ts'
import { type OpenSession, runOperation } from './operations.ts'

/** `mcr audit export`: the whole journal, or a part of it, as JSON Lines. */
export function exportCommand(open: OpenSession): Command {
  const stream = auditOperations.find((operation) => operation.stream)
  return new Command('export')
    .description('write the journal as JSON Lines, oldest first, to standard output')
    .option('--since <time>', 'RFC 3339')
    .option('--until <time>', 'RFC 3339')
    .action(async (options: { since?: string; until?: string }) => {
      if (!stream) throw new Error('there is no stream of the journal')
      await runOperation(stream, fromRest(stream.method.input, options), async () => ({ ...(await open()), json: true }))
    })
}
