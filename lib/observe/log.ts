/** A line of the log that is not a request: what happened, to what, and why. Values never hold a secret. */
export interface LogEvent {
  level: 'debug' | 'info' | 'warn' | 'error'
  event: string
  [field: string]: unknown
}
