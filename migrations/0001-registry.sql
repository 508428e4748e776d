-- One row: who this registry is, the epoch of the storage protocol, and how far reaping went.
CREATE TABLE instance (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  name TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  epoch INTEGER NOT NULL DEFAULT 1,
  epoch_elapsed_ms INTEGER NOT NULL DEFAULT 0,
  reap_seq INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Work that one process does at a time. A lease is taken by compare-and-set on holder and beat.
CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  holder TEXT NOT NULL,
  beat INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Accounts of every source; `version` moves with password, roles and state, so that what was made from them stops counting.
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
CREATE UNIQUE INDEX accounts_own_name ON accounts(name) WHERE source IN ('local', 'robot');

-- What proves an account: its password, and tokens and sessions by their SHA-256. `scope` narrows what it may be used for, as JSON.
-- A registry token names the credential it was made from. `sealed` is a token of another service, to be asked about again; `validated_at`
-- is when that service last said yes.
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
CREATE UNIQUE INDEX credentials_password ON credentials(account_id) WHERE kind = 'password';
CREATE INDEX credentials_account ON credentials(account_id);
CREATE UNIQUE INDEX credentials_secret ON credentials(secret) WHERE kind <> 'password';

-- Failed logins by (account, address) and by address, in windows.
CREATE TABLE login_failures (
  bucket TEXT PRIMARY KEY,
  count INTEGER NOT NULL,
  window_ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Two are alive at a time: the newest signs, the one before it still verifies.
CREATE TABLE signing_keys (
  kid TEXT PRIMARY KEY,
  public_jwk TEXT NOT NULL,
  private_sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `rule` is JSON. One that `managed_by` names belongs to a robot and changes with it only.
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

-- A row that POST made stays invisible until its first link. A deleted one keeps its id and gives its name free.
CREATE TABLE repositories (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  visible INTEGER NOT NULL DEFAULT 0,
  logical_bytes INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  deleted_epoch INTEGER
) STRICT;
CREATE UNIQUE INDEX repositories_name ON repositories(name) WHERE deleted_epoch IS NULL;
-- The catalogue's order, without the invisible.
CREATE UNIQUE INDEX repositories_catalog ON repositories(name) WHERE deleted_epoch IS NULL AND visible = 1;

-- One row a stored blob. `inc` is the upload that brought it: the second half of the file's name. state 1: found missing or short.
CREATE TABLE blobs (
  digest TEXT PRIMARY KEY,
  inc TEXT NOT NULL UNIQUE,
  size INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0,
  epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Membership: the only basis for reading, mounting or referring to a blob.
CREATE TABLE repo_blobs (
  repo_id INTEGER NOT NULL REFERENCES repositories(id),
  digest TEXT NOT NULL REFERENCES blobs(digest) ON DELETE RESTRICT,
  epoch INTEGER NOT NULL,
  hidden_epoch INTEGER,
  PRIMARY KEY (repo_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repo_blobs_digest ON repo_blobs(digest);

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
CREATE INDEX manifests_subject ON manifests(repo_id, subject) WHERE subject IS NOT NULL;
CREATE INDEX manifests_digest ON manifests(digest);

CREATE TABLE manifest_bodies (
  digest TEXT PRIMARY KEY,
  body BLOB NOT NULL
) STRICT;

-- One row a descriptor. No foreign key on the target: it may be missing, be a blob, or come later and find itself protected.
CREATE TABLE refs (
  manifest_id INTEGER NOT NULL REFERENCES manifests(id) ON DELETE CASCADE,
  digest TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('config', 'layer', 'child', 'subject')),
  PRIMARY KEY (manifest_id, digest, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX refs_digest ON refs(digest, manifest_id);

CREATE TABLE tags (
  repo_id INTEGER NOT NULL REFERENCES repositories(id),
  name TEXT NOT NULL,
  manifest_id INTEGER NOT NULL REFERENCES manifests(id) ON DELETE RESTRICT,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (repo_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_manifest ON tags(repo_id, manifest_id);

-- No foreign key to manifests: history outlives them.
CREATE TABLE tag_history (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repo_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  old_digest TEXT,
  new_digest TEXT,
  event_id TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX tag_history_name ON tag_history(repo_id, name, at);

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
CREATE INDEX uploads_touched ON uploads(touched_at);
CREATE INDEX uploads_principal ON uploads(principal);

CREATE TABLE upload_segments (
  inc TEXT NOT NULL REFERENCES uploads(inc) ON DELETE CASCADE,
  seq INTEGER NOT NULL,
  part TEXT NOT NULL UNIQUE,
  size INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  PRIMARY KEY (inc, seq)
) STRICT, WITHOUT ROWID;

-- Incarnations whose files may go. `digest` is null where the upload never got one.
CREATE TABLE trash (
  inc TEXT PRIMARY KEY,
  digest TEXT,
  epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Audit log, webhook outbox and activity feed in one. Whatever points at an entry uses its random id. `hash` chains each entry to the
-- one before it; `payload_hash` is of what the entry says, so that retention can drop that (`dropped`) and the chain stays provable.
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
CREATE UNIQUE INDEX journal_id ON journal(id);
CREATE INDEX journal_type ON journal(type, seq);
CREATE INDEX journal_actor ON journal(actor, seq);
CREATE INDEX journal_repository ON journal(repository, seq) WHERE repository IS NOT NULL;

-- Foreign keys can be off on a connection; triggers cannot.
CREATE TRIGGER blobs_guard BEFORE DELETE ON blobs WHEN EXISTS (SELECT 1 FROM repo_blobs WHERE digest = OLD.digest)
BEGIN SELECT RAISE(ABORT, 'blob is linked'); END;
CREATE TRIGGER trash_guard BEFORE INSERT ON trash
WHEN EXISTS (SELECT 1 FROM blobs WHERE inc = NEW.inc) OR EXISTS (SELECT 1 FROM uploads WHERE inc = NEW.inc)
BEGIN SELECT RAISE(ABORT, 'incarnation is alive'); END;
CREATE TRIGGER blobs_inc_guard BEFORE INSERT ON blobs WHEN EXISTS (SELECT 1 FROM trash WHERE inc = NEW.inc)
BEGIN SELECT RAISE(ABORT, 'incarnation is dead'); END;
CREATE TRIGGER blobs_heal_guard BEFORE UPDATE OF inc ON blobs WHEN EXISTS (SELECT 1 FROM trash WHERE inc = NEW.inc)
BEGIN SELECT RAISE(ABORT, 'incarnation is dead'); END;

-- Logical bytes of a repository: each visible link once.
CREATE TRIGGER link_added AFTER INSERT ON repo_blobs WHEN NEW.hidden_epoch IS NULL
BEGIN UPDATE repositories SET logical_bytes = logical_bytes + (SELECT size FROM blobs WHERE digest = NEW.digest) WHERE id = NEW.repo_id; END;
CREATE TRIGGER link_removed AFTER DELETE ON repo_blobs WHEN OLD.hidden_epoch IS NULL
BEGIN UPDATE repositories SET logical_bytes = logical_bytes - (SELECT size FROM blobs WHERE digest = OLD.digest) WHERE id = OLD.repo_id; END;
CREATE TRIGGER link_hidden AFTER UPDATE OF hidden_epoch ON repo_blobs WHEN (OLD.hidden_epoch IS NULL) <> (NEW.hidden_epoch IS NULL)
BEGIN UPDATE repositories SET logical_bytes = logical_bytes
  + CASE WHEN NEW.hidden_epoch IS NULL THEN 1 ELSE -1 END * (SELECT size FROM blobs WHERE digest = NEW.digest) WHERE id = NEW.repo_id; END;
