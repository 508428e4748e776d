-- compatible-from: 0004
-- What garbage collection remembers between runs. `paused_by`: who stopped it, null while it may run. `watch_untagged`: whether the queue
-- below takes manifests, which it needs to only where untagged ones are collected. `rule`: the rule for those that the last full check went by.
CREATE TABLE gc_state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  paused_by TEXT,
  paused_at INTEGER,
  watch_untagged INTEGER NOT NULL DEFAULT 0,
  full_at INTEGER,
  rule TEXT NOT NULL DEFAULT ''
) STRICT;
INSERT INTO gc_state(id) VALUES (1);

-- What may have become garbage, so that a run costs what was deleted and not what there is. Only a hint: each entry is judged again where it
-- is taken, and a full check finds what no entry names. An entry is looked at once its epoch is cold. Blobs have no repository: 0.
CREATE TABLE gc_queue (
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'link', 'blob')),
  epoch INTEGER NOT NULL,
  repo_id INTEGER NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY (kind, epoch, repo_id, digest)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER gc_link_added AFTER INSERT ON repo_blobs
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('link', NEW.epoch, NEW.repo_id, NEW.digest) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER gc_link_removed AFTER DELETE ON repo_blobs
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('blob', 0, 0, OLD.digest) ON CONFLICT DO NOTHING; END;
-- What a collected manifest needed, named as its child, or signed as its referrer.
CREATE TRIGGER gc_manifest_removed BEFORE DELETE ON manifests
BEGIN
  INSERT INTO gc_queue(kind, epoch, repo_id, digest)
    SELECT 'link', 0, l.repo_id, l.digest FROM refs f JOIN repo_blobs l ON l.repo_id = OLD.repo_id AND l.digest = f.digest
    WHERE f.manifest_id = OLD.id ON CONFLICT DO NOTHING;
  INSERT INTO gc_queue(kind, epoch, repo_id, digest)
    SELECT 'manifest', m.epoch, m.repo_id, m.digest FROM refs f JOIN manifests m ON m.repo_id = OLD.repo_id AND m.digest = f.digest
    WHERE f.manifest_id = OLD.id AND f.kind = 'child' AND (SELECT watch_untagged FROM gc_state) = 1 ON CONFLICT DO NOTHING;
  INSERT INTO gc_queue(kind, epoch, repo_id, digest)
    SELECT 'manifest', m.epoch, m.repo_id, m.digest FROM manifests m
    WHERE m.repo_id = OLD.repo_id AND m.subject = OLD.digest AND (SELECT watch_untagged FROM gc_state) = 1 ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER gc_manifest_added AFTER INSERT ON manifests WHEN (SELECT watch_untagged FROM gc_state) = 1
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('manifest', NEW.epoch, NEW.repo_id, NEW.digest) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER gc_manifest_restored AFTER UPDATE OF deleted_epoch ON manifests
WHEN OLD.deleted_epoch IS NOT NULL AND NEW.deleted_epoch IS NULL AND (SELECT watch_untagged FROM gc_state) = 1
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('manifest', NEW.epoch, NEW.repo_id, NEW.digest) ON CONFLICT DO NOTHING; END;
-- What loses a tag keeps its grace from now on, however it lost it: an image that was tagged for a year is not cold.
CREATE TRIGGER gc_tag_moved AFTER UPDATE OF manifest_id ON tags WHEN OLD.manifest_id <> NEW.manifest_id
BEGIN
  UPDATE manifests SET epoch = (SELECT epoch FROM instance) WHERE id = OLD.manifest_id;
  INSERT INTO gc_queue(kind, epoch, repo_id, digest)
    SELECT 'manifest', epoch, repo_id, digest FROM manifests WHERE id = OLD.manifest_id AND (SELECT watch_untagged FROM gc_state) = 1
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER gc_tag_removed AFTER DELETE ON tags
BEGIN
  UPDATE manifests SET epoch = (SELECT epoch FROM instance) WHERE id = OLD.manifest_id;
  INSERT INTO gc_queue(kind, epoch, repo_id, digest)
    SELECT 'manifest', epoch, repo_id, digest FROM manifests WHERE id = OLD.manifest_id AND (SELECT watch_untagged FROM gc_state) = 1
    ON CONFLICT DO NOTHING;
END;
CREATE INDEX repo_blobs_hidden ON repo_blobs(hidden_epoch) WHERE hidden_epoch IS NOT NULL;

-- What a dry run found, until the next one.
CREATE TABLE gc_findings (
  run_id TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'link', 'blob')),
  repo_id INTEGER NOT NULL,
  digest TEXT NOT NULL,
  why TEXT NOT NULL,
  size INTEGER NOT NULL DEFAULT 0,
  shared INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (run_id, kind, repo_id, digest)
) STRICT, WITHOUT ROWID;

-- `repo_id`: only this repository. `progress`: part of the phase that is done, in millionths. `held_us`: the writer, at once and in all.
ALTER TABLE gc_runs ADD COLUMN full INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN repo_id INTEGER;
ALTER TABLE gc_runs ADD COLUMN phase TEXT NOT NULL DEFAULT '';
ALTER TABLE gc_runs ADD COLUMN phase_at INTEGER;
ALTER TABLE gc_runs ADD COLUMN progress INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN files INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN reaped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN batches INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN held_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gc_runs ADD COLUMN held_max_us INTEGER NOT NULL DEFAULT 0;
