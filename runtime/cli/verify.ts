import type { DescMessage, MessageShape } from '@bufbuild/protobuf'
import { Command } from 'commander'
import { StorageService } from '../../lib/admin/gen/mcr/v1/storage_pb.ts'
import { fromRest, toRest } from '../../lib/admin/json.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { storageOperations } from '../../lib/admin/storage.ts'
import { exitCodes } from './exit-codes.ts'
import type { OpenSession } from './operations.ts'
import { bytes } from './print.ts'
import { createProgressLine, formatProgress } from './progress.ts'

const { name } = StorageService.method.verifyStorage
const operation = storageOperations.find(({ method }) => method.name === name) as Operation

interface Line {
  kind: string
  finding?: Record<'severity' | 'what' | 'digest' | 'subject' | 'says' | 'hint', string> & { repositories: string[] }
  progress?: { phase: string; done: number; total: number; bytes: number; total_bytes: number }
  result?: Record<string, number> & { ok: boolean }
}

/** `mcr verify`: findings to standard output as they come, how far it is to standard error, and a code that says whether there was damage. */
export function verifyCommand(open: OpenSession): Command {
  return new Command('verify')
    .description(operation.summary)
    .option('--deep', 'read every file and hash it; without it sizes are compared')
    .addHelpText('after', '\nExit codes: 0 all is there, 7 something is damaged, else it could not be looked at to the end.')
    .action(async (options: { deep?: true }) => {
      const session = await open()
      const progress = createProgressLine({ quiet: session.json })
      let result: Line['result']
      try {
        const input = fromRest(operation.method.input, { deep: options.deep === true })
        for await (const message of session.transport.stream(operation, input)) {
          const line = lineOf(operation, message)
          if (session.json) process.stdout.write(`${JSON.stringify(line)}\n`)
          else if (line.progress) {
            const { phase, done, total, bytes: read, total_bytes: all } = line.progress
            progress.tell(`${phase}: ${formatProgress(done, total, read, all)}`)
          } else if (line.finding) {
            progress.clear()
            process.stdout.write(formatFinding(line.finding))
          }
          result ??= line.result
        }
        progress.clear()
      } finally {
        await session.close()
      }
      if (!result) throw new Error('it ended before everything was looked at')
      if (!session.json) process.stdout.write(formatResult(result))
      if (!result.ok) process.exitCode = exitCodes.damaged
    })
}

const lineOf = ({ method }: Operation, message: MessageShape<DescMessage>): Line =>
  toRest(method.output, message).verified as Line

function formatFinding({ severity, what, digest, repositories, subject, says, hint }: NonNullable<Line['finding']>): string {
  const where = repositories.length > 0 ? ` in ${repositories.join(', ')}` : ''
  return `${severity}: ${what} ${digest}${where}\n  ${says}${subject ? ` (${subject})` : ''}\n  ${hint}\n`
}

function formatResult(result: NonNullable<Line['result']>): string {
  const { ok, manifests, tags, links, blobs, files, damaged, orphans, absent, healed } = result
  const looked = `${manifests} manifests, ${tags} tags, ${links} links, ${blobs} blobs of ${bytes(Number(result.bytes))}, ${files} files`
  const verdict = ok ? 'all is there' : `${damaged} damaged`
  return `${verdict}: ${looked}; ${damaged} damaged, ${healed} healed, ${orphans} orphans, ${absent} absent as they may be\n`
}
