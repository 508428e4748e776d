import ipaddr from 'ipaddr.js'

/** Matches addresses against networks in CIDR notation. Errors: a plain Error for what is no network. */
export function networkMatcher(networks: readonly string[]): (address: string) => boolean {
  const parsed = networks.map((text) => {
    if (text.includes('/')) return ipaddr.parseCIDR(text)
    const address = ipaddr.parse(text)
    return [address, address.kind() === 'ipv4' ? 32 : 128] as const
  })
  return (text) => {
    if (!ipaddr.isValid(text)) return false
    const address = ipaddr.process(text)
    return parsed.some(([network, bits]) => network.kind() === address.kind() && address.match(network as never, bits))
  }
}

/** An address as text without the IPv6 mapping of IPv4. */
export function plainAddress(address: string | undefined): string {
  if (address === undefined) return 'unix'
  return address.startsWith('::ffff:') ? address.slice(7) : address
}

/** Whether a host name or address names this machine only. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, '').toLowerCase()
  if (name === 'localhost' || name.endsWith('.localhost')) return true
  return ipaddr.isValid(name) && ipaddr.process(name).range() === 'loopback'
}

/** `host:port`, `[v6]:port` or `:port` in its parts. Errors: a plain Error. */
export function parseListen(text: string): { host: string; port: number } {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:[\]]*):([0-9]{1,5})$/.exec(text)
  const port = Number(match?.[2])
  if (!match || port > 65_535) throw new Error(`${text} is no host:port`)
  return { host: (match[1] as string).replace(/^\[|\]$/g, '') || '0.0.0.0', port }
}
