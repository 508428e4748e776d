import type { Release } from '../metadata/released.ts'

/** Headers of every answer under /v2. Old docker clients tell a registry from a web server by the first. */
export const apiVersion = { 'Docker-Distribution-Api-Version': 'registry/2.0' } as const

/** A response without a body: `Content-Length: 0` is written, or the adapter would send an empty chunked one (204 has neither). */
export function empty(status: number, headers: Record<string, string> = {}): Response {
  return new Response(null, {
    status,
    headers: status === 204 ? { ...apiVersion, ...headers } : { ...apiVersion, 'Content-Length': '0', ...headers },
  })
}

/** What a delete frees, for clients of the protocol: bytes, and when those that were released are free at the earliest (RFC 3339). */
export function releaseHeaders({ freedNow, released, freeAfter }: Release): Record<string, string> {
  return {
    'MCR-Freed-Now': String(freedNow),
    'MCR-Released': String(released),
    ...(freeAfter === undefined ? {} : { 'MCR-Free-After': new Date(freeAfter).toISOString() }),
  }
}

/** A JSON body with exactly the content type given: clients compare the whole value. */
export function json(value: unknown, headers: Record<string, string> = {}): Response {
  const bytes = new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value))
  return new Response(bytes, {
    headers: { ...apiVersion, 'Content-Type': 'application/json', 'Content-Length': String(bytes.byteLength), ...headers },
  })
}
