/** Every metric that lib counts, with its labels and its help text; the runtime registers them under `mcr_`. */
export const metrics = {
  requests_total: { help: 'Requests by endpoint and status.', labels: ['endpoint', 'method', 'status'] },
  errors_total: { help: 'Refusals by protocol code.', labels: ['code'] },
  logins_total: { help: 'Logins by result.', labels: ['result'] },
  tokens_total: { help: 'Registry tokens made.', labels: [] },
  uploaded_bytes_total: { help: 'Blob bytes acknowledged.', labels: [] },
  blobs_suspect_total: {
    help: 'Blobs whose file was found missing, of another size, or of other bytes: each one is an alarm.',
    labels: [],
  },
  scrubbed_blobs_total: { help: 'Stored blobs that the scrub has read again.', labels: [] },
  scrubbed_bytes_total: { help: 'Bytes that the scrub has read again.', labels: [] },
  decisions_uncounted_total: { help: 'Decisions left out of the hourly aggregate: too many different ones at once.', labels: [] },
  gc_freed_bytes_total: { help: 'Bytes of files that garbage collection removed.', labels: [] },
  gc_runs_total: { help: 'Runs of garbage collection by kind and result.', labels: ['kind', 'result'] },
  gc_batches_total: { help: 'Transactions of garbage collection.', labels: [] },
  gc_writer_seconds_total: { help: 'Time that transactions of garbage collection held the writer.', labels: [] },
  gc_failures_total: { help: 'What garbage collection had to leave out.', labels: [] },
  gc_removed_total: { help: 'What garbage collection removed, by kind.', labels: ['what'] },
  limits_reached_total: { help: 'Requests and connections that met a bound, by its name.', labels: ['limit'] },
  jobs_total: { help: 'Runs of background jobs by result.', labels: ['job', 'result'] },
} as const
export type MetricName = keyof typeof metrics
