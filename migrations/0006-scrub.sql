-- compatible-from: 0004
-- How far the scrub has read the stored files: after the blob `position`, in the cycle that began at `started_at`. Counts are of this cycle.
CREATE TABLE scrub (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  position TEXT NOT NULL DEFAULT '',
  started_at INTEGER NOT NULL,
  blobs INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  damaged INTEGER NOT NULL DEFAULT 0,
  completed_at INTEGER
) STRICT;
