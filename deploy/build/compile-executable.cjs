// Serves from the executable's program outside of it, and on SIGUSR2 keeps what V8 has compiled of it until then, for start-executable.cjs:
// node --random-seed=1 compile-executable.cjs <program> <addon> <output>. The seed numbers V8's hashes the same in each build.
const { readFileSync, writeFileSync } = require('node:fs')
const { setFlagsFromString } = require('node:v8')
const { Script } = require('node:vm')

const [file, addon, output] = process.argv.splice(2, 3)
const source = readFileSync(file, 'latin1')
// What was compiled stays so, however long it is not run.
setFlagsFromString('--no-flush-bytecode')
const program = new Script(source, { filename: 'mcr.cjs' })
process.once('SIGUSR2', () => {
  setFlagsFromString('--flush-bytecode')
  const cachedData = program.createCachedData()
  if (new Script(source, { filename: 'mcr.cjs', cachedData }).cachedDataRejected)
    throw new Error('V8 refuses what it has compiled itself')
  writeFileSync(output, cachedData)
  process.exit()
})
const sea = { getAssetKeys: () => [addon], getRawAsset: (path) => new Uint8Array(readFileSync(path)).buffer }
program.runInThisContext()((name) => (name === 'node:sea' ? sea : require(name)), module, exports)
