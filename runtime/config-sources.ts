import { readFileSync } from 'node:fs'
import { parse as parseToml } from 'smol-toml'
import type { ConfigProblem } from './config.ts'
import { keys } from './config-keys.ts'

/** What was said of a key, and where: the last that says something counts. */
export interface Found {
  raw: unknown
  from: string
}

/** Adds what a file says to `found`, and what is wrong with it to `problems`. */
export function readFile(file: string, found: Map<string, Found>, problems: ConfigProblem[]): void {
  let document: Record<string, unknown>
  try {
    document = parseToml(readFileSync(file, 'utf8')) as Record<string, unknown>
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    problems.push({
      key: file,
      from: 'file',
      expected:
        code === 'EACCES'
          ? 'a file that this user can read: give the command as the user of the registry, sudo -u mcr mcr …, or name another file by --config'
          : `a TOML file that can be read: ${message.split('\n')[0]}`,
    })
    return
  }
  for (const [section, entries] of Object.entries(document)) {
    if (!Object.hasOwn(keys, section) || typeof entries !== 'object' || entries === null) {
      problems.push({ key: section, from: file, expected: unknown(section, Object.keys(keys), 'section') })
      continue
    }
    const known = keys[section as keyof typeof keys]
    for (const [name, raw] of Object.entries(entries)) {
      if (Object.hasOwn(known, name)) found.set(`${section}.${name}`, { raw, from: file })
      else problems.push({ key: `${section}.${name}`, from: file, expected: unknown(name, Object.keys(known), 'key') })
    }
  }
}

/** Variables that are MCR's and no keys. */
const otherVariables = new Set(['MCR_CONFIG', 'MCR_AUTH_KEY', 'MCR_SERVER', 'MCR_TOKEN', 'MCR_NATIVE_DIR', 'MCR_WORKER'])

/** The same for `MCR_<SECTION>_<KEY>`. */
export function readEnvironment(
  env: Readonly<Record<string, string | undefined>>,
  found: Map<string, Found>,
  problems: ConfigProblem[],
): void {
  const byVariable = new Map(
    Object.entries(keys).flatMap(([section, entries]) =>
      Object.keys(entries).map((name) => [`MCR_${section}_${name}`.toUpperCase(), `${section}.${name}`]),
    ),
  )
  for (const [variable, raw] of Object.entries(env)) {
    if (!variable.startsWith('MCR_') || variable.startsWith('MCR_TEST_') || otherVariables.has(variable) || raw === undefined)
      continue
    const key = byVariable.get(variable)
    if (key) found.set(key, { raw, from: `$${variable}` })
    else
      problems.push({ key: `$${variable}`, from: 'environment', expected: unknown(variable, [...byVariable.keys()], 'variable') })
  }
}

function unknown(name: string, known: string[], what: string): string {
  const [nearest] = known
    .map((entry) => [distance(name.toLowerCase(), entry.toLowerCase()), entry] as const)
    .sort((a, b) => a[0] - b[0])
  return nearest && nearest[0] <= Math.max(3, name.length / 3)
    ? `no such ${what}; did you mean ${nearest[1]}?`
    : `no such ${what}; known are ${known.slice(0, 20).join(', ')}`
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next.push(
        Math.min((row[j] as number) + 1, (next[j - 1] as number) + 1, (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      )
    row = next
  }
  return row[b.length] as number
}
