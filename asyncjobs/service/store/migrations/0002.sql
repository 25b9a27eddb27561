-- Limits, rates and schedules.

-- How many jobs of one name may run at once, and start in a span of time; the last submitted job decides.
CREATE TABLE limits (
    name     TEXT PRIMARY KEY,
    running  INTEGER,
    starts   INTEGER,
    seconds  REAL NOT NULL,
    opens_at REAL                                   -- when the next start is allowed, if jobs lie aside for that
) STRICT, WITHOUT ROWID;

CREATE INDEX limits_opening ON limits (opens_at) WHERE opens_at IS NOT NULL;

-- The starts that still count for a limit in a span of time; `fence` is that of the start.
CREATE TABLE starts (
    limit_name TEXT NOT NULL,
    fence      INTEGER NOT NULL,
    at         REAL NOT NULL,
    PRIMARY KEY (limit_name, fence)
) STRICT, WITHOUT ROWID;

-- Jobs that come again; `job` is the pattern (MessagePack of records.NewJob), opaque to everything but schedules.py.
CREATE TABLE schedules (
    name    TEXT PRIMARY KEY,
    cron    TEXT NOT NULL,
    zone    TEXT NOT NULL,
    next_at REAL NOT NULL,
    job     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX schedules_next ON schedules (next_at);

-- What lies aside for room under a limit, in the order in which it comes back; what takes room under one; what is open.
CREATE INDEX jobs_limited ON jobs (limit_name, lane, priority DESC, seq) WHERE place = 3;
CREATE INDEX jobs_limit_open ON jobs (limit_name, state) WHERE limit_name IS NOT NULL AND state < 4;
