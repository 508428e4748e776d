// Writes lib/admin/gen from the protos: code by buf, and the comments of messages and fields, which help texts and documents use.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const here = new URL('.', import.meta.url).pathname
const buf = new URL('../../../node_modules/.bin/buf', import.meta.url).pathname
const run = (...args) =>
  execFileSync(buf, args, {
    cwd: here,
    stdio: 'inherit',
    env: { ...process.env, PATH: `${new URL('../../../node_modules/.bin', import.meta.url).pathname}:${process.env.PATH}` },
  })

run('lint')
run('format', '--exit-code', '--diff')
run('generate')
const image = join(mkdtempSync(join(tmpdir(), 'mcr-proto-')), 'image.json')
run('build', '-o', image)
const comments = {}
for (const file of JSON.parse(readFileSync(image, 'utf8')).file) {
  if (file.package !== 'mcr.v1') continue
  for (const { path, leadingComments } of file.sourceCodeInfo.location) {
    if (!leadingComments || path[0] !== 4) continue
    const message = file.messageType[path[1]]
    if (path.length === 4 && path[2] === 2)
      comments[`${message.name}.${message.field[path[3]].name}`] = leadingComments.trim().replace(/\s+/g, ' ')
  }
}
writeFileSync(
  new URL('../gen/comments.ts', import.meta.url),
  `// @generated from the comments of the protos by generate.mjs\nexport const comments: Readonly<Record<string, string>> = ${JSON.stringify(comments, null, 2)}\n`,
)
