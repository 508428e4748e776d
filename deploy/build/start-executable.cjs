// Starts the program inside the executable, from the code that the build compiled where it is for this platform.
const { getAssetKeys, getRawAsset } = require('node:sea')
const { Script } = require('node:vm')

const asset = (name) => Buffer.from(getRawAsset(name))
const cachedData = getAssetKeys().includes('compiled') ? asset('compiled') : undefined
const program = new Script(asset('program').latin1Slice(), { filename: 'mcr.cjs', cachedData })
program.runInThisContext()(require, module, exports)
