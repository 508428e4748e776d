const longest = 16 * 1024

/**
 * A raw request target, looked at before anything parses it (a URL parser folds dot segments away, a router decodes slashes).
 * Shape: the path and query to serve, or what is wrong with it.  Source: RFC 9112 §3.2; RFC 3986 §6.2.2.
 */
export function checkTarget(raw: string): { target: string } | { problem: string } {
  if (raw.length > longest) return { problem: `the request target is longer than ${longest} bytes` }
  let target = raw
  if (!target.startsWith('/')) {
    // Absolute form, as sent to proxies: only path and query count, never its host.
    const match = /^https?:\/\/[^/?#]*(\/[^#]*)?$/i.exec(target)
    if (!match) return { problem: 'the request target is no path' }
    target = match[1] ?? '/'
  }
  const end = target.indexOf('?')
  const path = end < 0 ? target : target.slice(0, end)
  if (path === '/') return { target }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  if (/[\\\x00-\x20\x7f#]/.test(path)) return { problem: 'the path has a backslash, a fragment, a blank or a control character' }
  if (path.includes('%')) {
    if (/%(?![0-9a-fA-F]{2})/.test(path)) return { problem: 'the path has a % that is no escape' }
    if (/%(2f|5c|00)/i.test(path)) return { problem: 'the path has an escaped slash, backslash or NUL' }
    try {
      decodeURIComponent(path)
    } catch {
      return { problem: 'the path has escapes that are no UTF-8' }
    }
  }
  if (path.includes('//')) return { problem: 'the path has an empty segment' }
  if (/\/(\.|%2e){1,2}(\/|$)/i.test(path)) return { problem: 'the path has a . or .. segment' }
  if (path.endsWith('/') && path !== '/v2/' && !path.endsWith('/blobs/uploads/')) return { problem: 'the path ends in a slash' }
  return { target }
}

/** Whether a Host header is `host` or `host:port` and nothing else: the adapter builds a URL of it.  Source: RFC 9110 §7.2. */
export function isHost(text: string): boolean {
  return text.length <= 255 && /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?)(:[0-9]{1,5})?$/.test(text)
}
