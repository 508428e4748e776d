-- compatible-from: 0004
-- What an identity service or an issuer last told of itself, so that every process knows it while that one is down.
CREATE TABLE issuer_keys (
  source TEXT PRIMARY KEY,
  told TEXT NOT NULL,
  told_at INTEGER NOT NULL
) STRICT;
