import { readFileSync } from 'node:fs'
import { Command, InvalidArgumentError } from 'commander'
import { parseRepositoryName } from '../../lib/oci/names.ts'
import type { Assets } from '../app.ts'
import type { Config } from '../config.ts'
import { examine } from '../doctor/examine.ts'
import { type Finding, formatFindings } from '../doctor/finding.ts'
import { examineMachine } from '../doctor/machine.ts'
import { askSecret } from './ask.ts'
import { exitCodes } from './exit-codes.ts'

interface DoctorOptions {
  user?: string
  passwordStdin?: true
  repository: string
  patience: number
  upload: number
}

/** `mcr doctor`: what is wrong, and which line cures it. */
export function doctorCommand(program: Command, assets: Assets, load: () => Config): Command {
  return new Command('doctor')
    .description('look for what is wrong: at an address as its clients do, or without one at this machine')
    .argument('[url]', 'the address clients use, such as https://registry.example.com')
    .option('--user <name>', 'log in as (asks for the password): uploads, downloads and streams are looked at too')
    .option('--password-stdin', 'the password from standard input')
    .option('--repository <name>', 'where the login may push; what is pushed is deleted again', 'mcr-doctor')
    .option('--patience <seconds>', 'how long an upload may pause; proxies cut after 60 by default', quantity, 10)
    .option('--upload <MiB>', 'largest piece of an upload that grows and is cancelled', quantity, 32)
    .addHelpText(
      'after',
      `
With a personal or robot token: mcr --token <token> doctor <url>. A private authority: mcr --ca-cert <file> doctor <url>.
Exit codes: 0 nothing is wrong (notes do not count), 8 something is, 6 nothing answers there, 2 wrong usage.`,
    )
    .action(async (url: string | undefined, options: DoctorOptions) => {
      const { json, token, caCert } = program.opts<{ json?: true; token?: string; caCert?: string }>()
      const findings: Finding[] = []
      if (url === undefined) await examineMachine(load(), assets, (finding) => findings.push(finding))
      else findings.push(...(await examineAddress(url, options, token, caCert)))
      if (json) process.stdout.write(`${JSON.stringify(findings, null, 2)}\n`)
      else process.stdout.write(findings.length === 0 ? 'nothing is wrong\n' : formatFindings(findings))
      if (findings.some(({ severity }) => severity === 'wrong')) process.exitCode = exitCodes.found
    })
}

async function examineAddress(
  text: string,
  { user, passwordStdin, repository, patience, upload }: DoctorOptions,
  token: string | undefined,
  caCert: string | undefined,
): Promise<Finding[]> {
  if (!/^https?:\/\/[^/?#]+\/?$/.test(text) || !URL.canParse(text))
    throw Object.assign(new Error(`${text}: an address such as https://registry.example.com, without a path`), { status: 400 })
  parseRepositoryName(repository)
  const password =
    user === undefined
      ? undefined
      : await askSecret(`password of ${user}: `, { stdin: passwordStdin, insteadOf: 'give --password-stdin' })
  const authorization =
    user !== undefined ? `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` : token && `Bearer ${token}`
  try {
    return await examine({
      url: new URL(text),
      ca: caCert === undefined ? undefined : readFileSync(caCert, 'utf8'),
      authorization,
      repository,
      patienceMs: patience * 1000,
      uploadBytes: upload * 2 ** 20,
    })
  } catch (error) {
    throw Object.assign(new Error(`nothing answers at ${text}: ${(error as Error).message}`), { status: 503 })
  }
}

function quantity(text: string): number {
  if (!/^[0-9]{1,4}(\.[0-9]+)?$/.test(text)) throw new InvalidArgumentError('a number')
  return Number(text)
}
