import type { Command } from 'commander'

/** A completion script for bash, zsh or fish: words and flags of every command, made of the commands themselves. */
export function completionScript(program: Command, shell: string): string {
  const entries = [...walk(program, [])]
  if (shell === 'fish') return entries.map(fishLine).join('')
  const cases = entries
    .map(({ words, next }) => `    ${JSON.stringify(words.join(' '))}) next=${JSON.stringify(next.join(' '))} ;;`)
    .join('\n')
  const body = `_mcr() {
  local word words="" next=""
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) words="\${words:+$words }$word" ;; esac
  done
  while :; do
    case "$words" in
${cases}
    esac
    [ -n "$next" ] && break
    case "$words" in *" "*) words="\${words% *}" ;; "") break ;; *) words="" ;; esac
  done
  COMPREPLY=($(compgen -W "$next" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _mcr mcr mcrctl
`
  return shell === 'zsh' ? `autoload -U +X bashcompinit && bashcompinit\n${body}` : body
}

interface Entry {
  words: string[]
  next: string[]
  described: [word: string, text: string][]
}

function* walk(command: Command, words: string[]): Generator<Entry> {
  const described = command.commands.map((child): [string, string] => [child.name(), child.description()])
  const flags = command.options.flatMap((option) => (option.long ? [option.long] : []))
  yield { words, next: [...described.map(([word]) => word), ...flags], described }
  for (const child of command.commands) yield* walk(child, [...words, child.name()])
}

function fishLine({ words, described }: Entry): string {
  const condition = words.length === 0 ? '__fish_use_subcommand' : `__fish_seen_subcommand_from ${words.at(-1)}`
  return described
    .map(([word, text]) => `complete -c mcr -f -n '${condition}' -a ${word} -d '${text.replaceAll("'", "\\'")}'\n`)
    .join('')
}
