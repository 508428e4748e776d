#!/usr/bin/env node
// Starts the program from the code that Node compiled when it was built; where that does not fit, Node compiles it again.
const { enableCompileCache } = require('node:module')
const { join } = require('node:path')

enableCompileCache(join(__dirname, 'compiled'))
require('./program.cjs')
