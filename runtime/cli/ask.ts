import { createInterface } from 'node:readline/promises'

/** One line of standard input, or of the terminal without showing it. Errors: a plain Error where there is neither. */
export async function askSecret(question: string, options: { stdin?: boolean; insteadOf: string }): Promise<string> {
  if (!options.stdin && !process.stdin.isTTY) throw new Error(`no terminal to ask on: ${options.insteadOf}`)
  if (!options.stdin) {
    process.stderr.write(question)
    process.stdin.setRawMode(true)
  }
  try {
    let text = ''
    if (options.stdin) {
      const lines = createInterface({ input: process.stdin, terminal: false })
      const { value } = await lines[Symbol.asyncIterator]().next()
      lines.close()
      return String(value ?? '')
    }
    for await (const chunk of process.stdin) {
      for (const char of `${chunk}`) {
        if (char === '\r' || char === '\n') return text
        if (char === '\u0003') process.exit(130)
        text = char === '\u007f' ? text.slice(0, -1) : text + char
      }
    }
    return text
  } finally {
    if (!options.stdin) {
      process.stdin.setRawMode(false)
      process.stdin.pause()
      process.stderr.write('\n')
    }
  }
}

/** Whether a person says yes. */
export async function confirm(question: string): Promise<boolean> {
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  const answer = await lines.question(`${question} [y/N] `)
  lines.close()
  return /^y(es)?$/i.test(answer.trim())
}
