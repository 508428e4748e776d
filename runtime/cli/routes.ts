import type { Assets } from '../app.ts'

/** One line a route: methods, path, action, errors, the rule it follows, its handler. */
export function formatRoutes(routes: Assets['routes']): string {
  return routes
    .map(({ methods, path, action, errors, spec, handler }) =>
      [
        methods.join(',').padEnd(10),
        path.padEnd(42),
        action.padEnd(32),
        spec.join(',').padEnd(24),
        handler.padEnd(20),
        errors.join(' '),
      ]
        .join(' ')
        .trimEnd(),
    )
    .sort()
    .join('\n')
    .concat('\n')
}
