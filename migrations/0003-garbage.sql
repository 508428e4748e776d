-- Runs of garbage collection (rows and what they name) and of reconciling (files that no row names): asked for, under way, done. `holder` is the process that runs it; counts move while it does.
CREATE TABLE gc_runs (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('collect', 'reconcile')),
  asked_at INTEGER NOT NULL,
  asked_by TEXT NOT NULL,
  dry_run INTEGER NOT NULL,
  skip_window INTEGER NOT NULL,
  state TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'running', 'done')),
  holder TEXT,
  beat_at INTEGER,
  started_at INTEGER,
  completed_at INTEGER,
  manifests INTEGER NOT NULL DEFAULT 0,
  links INTEGER NOT NULL DEFAULT 0,
  blobs INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  orphans INTEGER NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
-- One at a time: the rule is the index.
CREATE UNIQUE INDEX gc_runs_one ON gc_runs((1)) WHERE state <> 'done';
CREATE INDEX gc_runs_asked ON gc_runs(asked_at);
CREATE INDEX manifests_deleted ON manifests(deleted_epoch) WHERE deleted_epoch IS NOT NULL;
CREATE INDEX repositories_deleted ON repositories(deleted_epoch) WHERE deleted_epoch IS NOT NULL;
