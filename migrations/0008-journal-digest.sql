-- compatible-from: 0004
-- What happened to a digest (mcr why), without a look at the whole journal. Pulls are most of it, and are not asked for.
CREATE INDEX journal_digest ON journal(digest) WHERE digest IS NOT NULL AND type <> 'manifest_pulled';
