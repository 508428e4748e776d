-- While a pin holds, no file goes: a backup copies what its copy of the database names. A pin is over two epochs after it was made or renewed.
CREATE TABLE gc_pins (
  id TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL,
  made_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
ALTER TABLE gc_runs ADD COLUMN uploads INTEGER NOT NULL DEFAULT 0;
