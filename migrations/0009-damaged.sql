-- compatible-from: 0004
-- Which blobs are marked as damaged, without a look at all that are not.
CREATE INDEX blobs_damaged ON blobs(digest) WHERE state = 1;
