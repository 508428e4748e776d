import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { Command } from 'commander'
import { addCommands } from '../../runtime/cli/commands.ts'
import { loadHandlers, makeAssets } from '../support/assets.ts'

const program = new Command('mcr')
program.command('serve')
addCommands(program, makeAssets(await loadHandlers()), () => assert.fail('no command runs here'))

/** `mcr`, options, and words; of the documents what is code, of the sources all but comments. */
const named = /(?:(?<![\w/-])mcr|(?<=\/)mcr(?= --config))((?: --[a-z-]+(?: [/<]\S+)?)*(?: (?!mcr)[a-z][a-z-]*)+)/g
const inDocuments = /(?<=^|`|[#$] )mcr((?: --[a-z-]+(?: [/<]\S+)?)*(?: (?!mcr)[a-z][a-z-]*)+)/gm

test('every command that messages, units and documents name is one', () => {
  const wrong: string[] = []
  let seen = 0
  const look = (file: string, text: string, pattern: RegExp) => {
    for (const [, words] of text.matchAll(pattern)) {
      let at = program
      for (const word of (words as string).split(' ').filter((part) => /^[a-z]/.test(part))) {
        if (at !== program && at.commands.length === 0) break
        const next = at.commands.find((command) => command.name() === word)
        if (!next) wrong.push(`${file}: mcr${words}`)
        if (!next) break
        at = next
        seen++
      }
    }
  }
  for (const file of globSync('{runtime,lib,handlers}/**/*.ts'))
    look(file, readFileSync(file, 'utf8').replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, ''), named)
  for (const file of globSync('deploy/systemd/*.service')) look(file, readFileSync(file, 'utf8'), named)
  for (const file of globSync(['README.md', 'docs/*.md'])) look(file, readFileSync(file, 'utf8'), inDocuments)
  assert.ok(seen > 50, 'little was read')
  // What a checkpoint signs begins so.
  assert.deepEqual(
    wrong.filter((line) => line !== 'lib/journal/checkpoint.ts: mcr journal'),
    [],
  )
})
