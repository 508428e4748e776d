-- What was decided, hour by hour: complete even where pulls are sampled in the journal. Answers when something was last pulled, and
-- what another set of rules would have answered. `rule_id` is the rule that said so; null where none allowed it.
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
CREATE INDEX decisions_repository ON decisions(repository, action, hour);

-- Signed heads of the journal; they also go to the log. The key is its own, sealed as the token keys are.
CREATE TABLE journal_keys (
  kid TEXT PRIMARY KEY,
  public_jwk TEXT NOT NULL,
  private_sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE journal_checkpoints (
  seq INTEGER PRIMARY KEY,
  hash BLOB NOT NULL,
  at INTEGER NOT NULL,
  kid TEXT NOT NULL,
  signature BLOB NOT NULL
) STRICT;

-- Whose ID tokens are exchanged for registry tokens, and for what. `claims`, `roles`, `actions`, `repositories` are JSON.
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

-- A browser that went to an issuer and is expected back; each is used once. Only hashes of what it must bring.
CREATE TABLE browser_logins (
  state TEXT PRIMARY KEY,
  issuer TEXT NOT NULL,
  nonce TEXT NOT NULL,
  verifier TEXT NOT NULL,
  return_to TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
