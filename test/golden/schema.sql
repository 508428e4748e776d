CREATE UNIQUE INDEX accounts_own_name ON accounts(name) WHERE source IN ('local', 'robot');
CREATE INDEX blobs_damaged ON blobs(digest) WHERE state = 1;
CREATE INDEX credentials_account ON credentials(account_id);
CREATE UNIQUE INDEX credentials_password ON credentials(account_id) WHERE kind = 'password';
CREATE UNIQUE INDEX credentials_secret ON credentials(secret) WHERE kind <> 'password';
CREATE INDEX decisions_repository ON decisions(repository, action, hour);
CREATE INDEX gc_runs_asked ON gc_runs(asked_at);
CREATE UNIQUE INDEX gc_runs_one ON gc_runs((1)) WHERE state <> 'done';
CREATE INDEX journal_actor ON journal(actor, seq);
CREATE INDEX journal_digest ON journal(digest) WHERE digest IS NOT NULL AND type <> 'manifest_pulled';
CREATE UNIQUE INDEX journal_id ON journal(id);
CREATE INDEX journal_repository ON journal(repository, seq) WHERE repository IS NOT NULL;
CREATE INDEX journal_type ON journal(type, seq);
CREATE INDEX manifests_deleted ON manifests(deleted_epoch) WHERE deleted_epoch IS NOT NULL;
CREATE INDEX manifests_digest ON manifests(digest);
CREATE INDEX manifests_subject ON manifests(repo_id, subject) WHERE subject IS NOT NULL;
CREATE INDEX refs_digest ON refs(digest, manifest_id);
CREATE INDEX repo_blobs_digest ON repo_blobs(digest);
CREATE INDEX repo_blobs_hidden ON repo_blobs(hidden_epoch) WHERE hidden_epoch IS NOT NULL;
CREATE UNIQUE INDEX repositories_catalog ON repositories(name) WHERE deleted_epoch IS NULL AND visible = 1;
CREATE INDEX repositories_deleted ON repositories(deleted_epoch) WHERE deleted_epoch IS NOT NULL;
CREATE UNIQUE INDEX repositories_name ON repositories(name) WHERE deleted_epoch IS NULL;
CREATE INDEX tag_history_name ON tag_history(repo_id, name, at);
CREATE INDEX tags_manifest ON tags(repo_id, manifest_id);
CREATE INDEX uploads_principal ON uploads(principal);
CREATE INDEX uploads_touched ON uploads(touched_at);
CREATE TABLE accounts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  subject TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('human', 'system')),
  source TEXT NOT NULL DEFAULT 'local',
  roles TEXT NOT NULL DEFAULT '[]',
  disabled INTEGER NOT NULL DEFAULT 0,
  version INTEGER NOT NULL DEFAULT 1,
  created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE blobs (
  digest TEXT PRIMARY KEY,
  inc TEXT NOT NULL UNIQUE,
  size INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0,
  epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE browser_logins (
  state TEXT PRIMARY KEY,
  issuer TEXT NOT NULL,
  nonce TEXT NOT NULL,
  verifier TEXT NOT NULL,
  return_to TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE credentials (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  account_id INTEGER NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('password', 'personal', 'robot', 'login', 'session', 'external')),
  name TEXT NOT NULL DEFAULT '',
  secret TEXT NOT NULL,
  scope TEXT,
  version INTEGER NOT NULL DEFAULT 1,
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  last_used_at INTEGER,
  validated_at INTEGER,
  sealed BLOB
) STRICT;
CREATE TABLE decisions (
  hour INTEGER NOT NULL,
  subject TEXT NOT NULL,
  kind TEXT NOT NULL,
  roles TEXT NOT NULL,
  action TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  address TEXT NOT NULL,
  allowed INTEGER NOT NULL,
  rule_id INTEGER NOT NULL,
  count INTEGER NOT NULL,
  last_at INTEGER NOT NULL,
  PRIMARY KEY (hour, subject, kind, roles, action, repository, tag, address, allowed, rule_id)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE gc_pins (
  id TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL,
  made_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE gc_queue (
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'link', 'blob')),
  epoch INTEGER NOT NULL,
  repo_id INTEGER NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY (kind, epoch, repo_id, digest)
) STRICT, WITHOUT ROWID;
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
, uploads INTEGER NOT NULL DEFAULT 0, full INTEGER NOT NULL DEFAULT 0, repo_id INTEGER, phase TEXT NOT NULL DEFAULT '', phase_at INTEGER, progress INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, files INTEGER NOT NULL DEFAULT 0, reaped INTEGER NOT NULL DEFAULT 0, shared INTEGER NOT NULL DEFAULT 0, batches INTEGER NOT NULL DEFAULT 0, held_us INTEGER NOT NULL DEFAULT 0, held_max_us INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE TABLE gc_state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  paused_by TEXT,
  paused_at INTEGER,
  watch_untagged INTEGER NOT NULL DEFAULT 0,
  full_at INTEGER,
  rule TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE instance (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  name TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  epoch INTEGER NOT NULL DEFAULT 1,
  epoch_elapsed_ms INTEGER NOT NULL DEFAULT 0,
  reap_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE issuer_keys (
  source TEXT PRIMARY KEY,
  told TEXT NOT NULL,
  told_at INTEGER NOT NULL
) STRICT;
CREATE TABLE journal (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL,
  at INTEGER NOT NULL,
  type TEXT NOT NULL,
  actor TEXT,
  address TEXT,
  repository TEXT,
  digest TEXT,
  tag TEXT,
  detail TEXT,
  count INTEGER NOT NULL DEFAULT 1,
  payload_hash BLOB NOT NULL,
  hash BLOB NOT NULL,
  dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE journal_checkpoints (
  seq INTEGER PRIMARY KEY,
  hash BLOB NOT NULL,
  at INTEGER NOT NULL,
  kid TEXT NOT NULL,
  signature BLOB NOT NULL
) STRICT;
CREATE TABLE journal_keys (
  kid TEXT PRIMARY KEY,
  public_jwk TEXT NOT NULL,
  private_sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  holder TEXT NOT NULL,
  beat INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE login_failures (
  bucket TEXT PRIMARY KEY,
  count INTEGER NOT NULL,
  window_ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE manifest_bodies (
  digest TEXT PRIMARY KEY,
  body BLOB NOT NULL
) STRICT;
CREATE TABLE manifests (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repo_id INTEGER NOT NULL REFERENCES repositories(id),
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  artifact_type TEXT,
  subject TEXT,
  annotations TEXT,
  size INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  deleted_epoch INTEGER,
  UNIQUE (repo_id, digest)
) STRICT;
CREATE TABLE mcr_schema (name TEXT PRIMARY KEY, sum TEXT NOT NULL, compatible_from TEXT) STRICT, WITHOUT ROWID;
CREATE TABLE policy_rules (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  priority INTEGER NOT NULL CHECK (priority >= 1),
  description TEXT NOT NULL DEFAULT '',
  rule TEXT NOT NULL,
  enabled INTEGER NOT NULL DEFAULT 1,
  managed_by INTEGER REFERENCES accounts(id) ON DELETE CASCADE,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT;
CREATE TABLE refs (
  manifest_id INTEGER NOT NULL REFERENCES manifests(id) ON DELETE CASCADE,
  digest TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('config', 'layer', 'child', 'subject')),
  PRIMARY KEY (manifest_id, digest, kind)
) STRICT, WITHOUT ROWID;
CREATE TABLE repo_blobs (
  repo_id INTEGER NOT NULL REFERENCES repositories(id),
  digest TEXT NOT NULL REFERENCES blobs(digest) ON DELETE RESTRICT,
  epoch INTEGER NOT NULL,
  hidden_epoch INTEGER,
  PRIMARY KEY (repo_id, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE repositories (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  visible INTEGER NOT NULL DEFAULT 0,
  logical_bytes INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  deleted_epoch INTEGER
) STRICT;
CREATE TABLE scrub (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  position TEXT NOT NULL DEFAULT '',
  started_at INTEGER NOT NULL,
  blobs INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  damaged INTEGER NOT NULL DEFAULT 0,
  completed_at INTEGER
) STRICT;
CREATE TABLE signing_keys (
  kid TEXT PRIMARY KEY,
  public_jwk TEXT NOT NULL,
  private_sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE tag_history (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repo_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  old_digest TEXT,
  new_digest TEXT,
  event_id TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE TABLE tags (
  repo_id INTEGER NOT NULL REFERENCES repositories(id),
  name TEXT NOT NULL,
  manifest_id INTEGER NOT NULL REFERENCES manifests(id) ON DELETE RESTRICT,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (repo_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE trash (
  inc TEXT PRIMARY KEY,
  digest TEXT,
  epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE trusts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  description TEXT NOT NULL DEFAULT '',
  issuer TEXT NOT NULL,
  audience TEXT NOT NULL,
  claims TEXT NOT NULL,
  roles TEXT NOT NULL,
  actions TEXT NOT NULL,
  repositories TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE upload_segments (
  inc TEXT NOT NULL REFERENCES uploads(inc) ON DELETE CASCADE,
  seq INTEGER NOT NULL,
  part TEXT NOT NULL UNIQUE,
  size INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  PRIMARY KEY (inc, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE uploads (
  inc TEXT PRIMARY KEY,
  repo_id INTEGER NOT NULL REFERENCES repositories(id),
  principal TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'finishing')),
  algorithm TEXT,
  size INTEGER NOT NULL DEFAULT 0,
  segments INTEGER NOT NULL DEFAULT 0,
  epoch INTEGER NOT NULL,
  touched_at INTEGER NOT NULL,
  owner TEXT,
  store_state TEXT
) STRICT, WITHOUT ROWID;
CREATE TRIGGER blobs_guard BEFORE DELETE ON blobs WHEN EXISTS (SELECT 1 FROM repo_blobs WHERE digest = OLD.digest)
BEGIN SELECT RAISE(ABORT, 'blob is linked'); END;
CREATE TRIGGER blobs_heal_guard BEFORE UPDATE OF inc ON blobs WHEN EXISTS (SELECT 1 FROM trash WHERE inc = NEW.inc)
BEGIN SELECT RAISE(ABORT, 'incarnation is dead'); END;
CREATE TRIGGER blobs_inc_guard BEFORE INSERT ON blobs WHEN EXISTS (SELECT 1 FROM trash WHERE inc = NEW.inc)
BEGIN SELECT RAISE(ABORT, 'incarnation is dead'); END;
CREATE TRIGGER gc_link_added AFTER INSERT ON repo_blobs
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('link', NEW.epoch, NEW.repo_id, NEW.digest) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER gc_link_removed AFTER DELETE ON repo_blobs
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('blob', 0, 0, OLD.digest) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER gc_manifest_added AFTER INSERT ON manifests WHEN (SELECT watch_untagged FROM gc_state) = 1
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('manifest', NEW.epoch, NEW.repo_id, NEW.digest) ON CONFLICT DO NOTHING; END;
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
CREATE TRIGGER gc_manifest_restored AFTER UPDATE OF deleted_epoch ON manifests
WHEN OLD.deleted_epoch IS NOT NULL AND NEW.deleted_epoch IS NULL AND (SELECT watch_untagged FROM gc_state) = 1
BEGIN INSERT INTO gc_queue(kind, epoch, repo_id, digest) VALUES ('manifest', NEW.epoch, NEW.repo_id, NEW.digest) ON CONFLICT DO NOTHING; END;
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
CREATE TRIGGER link_added AFTER INSERT ON repo_blobs WHEN NEW.hidden_epoch IS NULL
BEGIN UPDATE repositories SET logical_bytes = logical_bytes + (SELECT size FROM blobs WHERE digest = NEW.digest) WHERE id = NEW.repo_id; END;
CREATE TRIGGER link_hidden AFTER UPDATE OF hidden_epoch ON repo_blobs WHEN (OLD.hidden_epoch IS NULL) <> (NEW.hidden_epoch IS NULL)
BEGIN UPDATE repositories SET logical_bytes = logical_bytes
  + CASE WHEN NEW.hidden_epoch IS NULL THEN 1 ELSE -1 END * (SELECT size FROM blobs WHERE digest = NEW.digest) WHERE id = NEW.repo_id; END;
CREATE TRIGGER link_removed AFTER DELETE ON repo_blobs WHEN OLD.hidden_epoch IS NULL
BEGIN UPDATE repositories SET logical_bytes = logical_bytes - (SELECT size FROM blobs WHERE digest = OLD.digest) WHERE id = OLD.repo_id; END;
CREATE TRIGGER trash_guard BEFORE INSERT ON trash
WHEN EXISTS (SELECT 1 FROM blobs WHERE inc = NEW.inc) OR EXISTS (SELECT 1 FROM uploads WHERE inc = NEW.inc)
BEGIN SELECT RAISE(ABORT, 'incarnation is alive'); END;
