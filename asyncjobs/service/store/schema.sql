-- The durable store. One row of `jobs` is one accepted job; `events` says what happened to it, in order.
--
-- States are the numbers of asyncjobs.state.JobState: 0 QUEUED, 1 RUNNING, 2 WAITING, 3 STOPPING,
-- and the final ones 4 SUCCEEDED, 5 FAILED, 6 TIMED_OUT, 7 CANCELLED, 8 LOST. Instants are seconds since
-- 1970; nothing is ordered by them. Bytes are opaque: this database never looks into a call or an outcome.
--
-- A change here needs a new file in migrations/ that leads an older database to the same schema.

-- Counters: `epoch` (openings of the store), `last_job` and `last_event` (the highest numbers ever given to rows
-- that may be gone by now), `pruned_events` (how many lines of the log went with their jobs).
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counters (name, value) VALUES ('epoch', 0), ('last_job', 0), ('last_event', 0), ('pruned_events', 0);

-- How many jobs are in each state; kept in step by whoever moves them, so that no question has to count.
CREATE TABLE tallies (
    state INTEGER PRIMARY KEY CHECK (state BETWEEN 0 AND 8),
    jobs  INTEGER NOT NULL CHECK (jobs >= 0)
) STRICT;

INSERT INTO tallies (state, jobs) VALUES (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0);

-- The legal moves, written anew from asyncjobs.state.MOVES at every opening; the trigger below reads them.
CREATE TABLE moves (
    before INTEGER NOT NULL,
    after  INTEGER NOT NULL,
    PRIMARY KEY (before, after)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    seq          INTEGER PRIMARY KEY,               -- the order of acceptance; never given twice
    id           TEXT NOT NULL UNIQUE,
    key          TEXT,                              -- idempotency key
    digest       BLOB NOT NULL,                     -- what a second submit with the same key has to match
    name         TEXT NOT NULL,
    function     TEXT NOT NULL,                     -- module:qualname; empty: it travels in the call
    lane         TEXT NOT NULL,
    state        INTEGER NOT NULL CHECK (state BETWEEN 0 AND 8),
    -- Where it waits while it is QUEUED or WAITING, else NULL: 0 claimable, 1 for its `due`, 2 for `after`,
    -- 3 for room under its limit, 4 for its function to be resumed. Limits and pauses are looked at when a claim
    -- meets the job, so that a pause of a million jobs is one row.
    place        INTEGER CHECK (place BETWEEN 0 AND 4),
    priority     INTEGER NOT NULL,
    due          REAL,
    parents      INTEGER NOT NULL DEFAULT 0,        -- how many of `after` have not succeeded yet
    after        TEXT,                              -- JSON list of ids, for people and the engine; `edges` decides
    attempt      INTEGER NOT NULL DEFAULT 0,        -- the number of the last start
    epoch        INTEGER NOT NULL DEFAULT 0,        -- which opening of the store made it
    fence        INTEGER NOT NULL DEFAULT 0,        -- number of the event of the last start: grows with every start
    failures     INTEGER NOT NULL DEFAULT 0,
    crashes      INTEGER NOT NULL DEFAULT 0,
    at_most_once INTEGER NOT NULL DEFAULT 0,
    max_crashes  INTEGER NOT NULL,
    submitted_at REAL NOT NULL,
    started_at   REAL,
    ended_at     REAL,
    keep         REAL,                              -- seconds after its end; NULL: the store's rule
    expires_at   REAL,                              -- when it may be pruned; set at its end
    note         TEXT NOT NULL DEFAULT '',
    stop         TEXT,                              -- why it is asked to stop
    size         INTEGER NOT NULL DEFAULT 0,        -- bytes of its outcome
    tags         TEXT,                              -- JSON list; `tags` finds them
    limit_name   TEXT,
    schedule     TEXT,
    deadline     REAL,                              -- it ends then, if it has not ended before
    CHECK ((place IS NOT NULL) = (state IN (0, 2))),
    CHECK ((ended_at IS NOT NULL) = (state >= 4))
) STRICT;

-- One job per key for as long as the job is kept.
CREATE UNIQUE INDEX jobs_key ON jobs (key) WHERE key IS NOT NULL;
-- What a claim takes next, in one step.
CREATE INDEX jobs_ready ON jobs (lane, priority DESC, seq) WHERE place = 0;
CREATE INDEX jobs_due ON jobs (due) WHERE place = 1;
CREATE INDEX jobs_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND place IS NOT NULL;
CREATE INDEX jobs_paused ON jobs (function, priority DESC, seq) WHERE place = 4;
-- What lies aside for room under a limit, in the order in which it comes back; what takes room under one; what is open.
CREATE INDEX jobs_limited ON jobs (limit_name, lane, priority DESC, seq) WHERE place = 3;
CREATE INDEX jobs_limit_open ON jobs (limit_name, state) WHERE limit_name IS NOT NULL AND state < 4;
-- Lists by state, and what ran when the service died.
CREATE INDEX jobs_state ON jobs (state, seq);
CREATE INDEX jobs_schedule ON jobs (schedule, seq) WHERE schedule IS NOT NULL;
CREATE INDEX jobs_expiry ON jobs (expires_at) WHERE expires_at IS NOT NULL;

CREATE TRIGGER jobs_final BEFORE UPDATE ON jobs
WHEN OLD.state >= 4
BEGIN
    SELECT RAISE(ABORT, 'a final job never changes');
END;

CREATE TRIGGER jobs_move BEFORE UPDATE OF state ON jobs
WHEN NEW.state <> OLD.state AND NOT EXISTS (SELECT 1 FROM moves WHERE before = OLD.state AND after = NEW.state)
BEGIN
    SELECT RAISE(ABORT, 'illegal move of a job');
END;

CREATE TRIGGER jobs_stay BEFORE DELETE ON jobs
WHEN OLD.state < 4
BEGIN
    SELECT RAISE(ABORT, 'only a job that has ended may go');
END;

-- From which job to which the jobs of one name, or of one function, reach, and how many there are: a list by a name
-- that no job has ends at once, without an index entry for every job.
CREATE TABLE spans (
    field    TEXT NOT NULL CHECK (field IN ('name', 'function')),
    value    TEXT NOT NULL,
    first    INTEGER NOT NULL,                      -- jobs.seq, of the oldest that was ever counted here
    last     INTEGER NOT NULL,
    jobs     INTEGER NOT NULL,
    PRIMARY KEY (field, value)
) STRICT, WITHOUT ROWID;

-- The call apart from its row: a move rewrites the row, and must not rewrite a megabyte with it.
CREATE TABLE calls (
    seq     INTEGER PRIMARY KEY REFERENCES jobs (seq),
    payload BLOB NOT NULL,
    terms   BLOB NOT NULL
) STRICT;

-- At most one per ended job. A large one is a file beside the database, whose name below results/ stands here.
CREATE TABLE outcomes (
    seq  INTEGER PRIMARY KEY REFERENCES jobs (seq),
    body BLOB,
    file TEXT,
    CHECK ((body IS NULL) <> (file IS NULL))
) STRICT;

CREATE TRIGGER outcomes_first BEFORE INSERT ON outcomes
WHEN (SELECT state FROM jobs WHERE seq = NEW.seq) >= 4
BEGIN
    SELECT RAISE(ABORT, 'a final job never changes');
END;

CREATE TRIGGER outcomes_stand BEFORE UPDATE ON outcomes
BEGIN
    SELECT RAISE(ABORT, 'an outcome never changes');
END;

-- What a running job left for its next attempt; goes when the job ends.
CREATE TABLE checkpoints (
    seq     INTEGER PRIMARY KEY REFERENCES jobs (seq),
    attempt INTEGER NOT NULL,
    body    BLOB NOT NULL
) STRICT;

-- `child` runs after `parent` has succeeded; a row goes when the child ends. A parent with rows is not pruned.
CREATE TABLE edges (
    parent  INTEGER NOT NULL REFERENCES jobs (seq),
    child   INTEGER NOT NULL REFERENCES jobs (seq),
    is_open INTEGER NOT NULL,                       -- 1: the child has not been told yet what became of the parent
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;

CREATE INDEX edges_open ON edges (parent, child) WHERE is_open = 1;
CREATE INDEX edges_child ON edges (child);

-- Ended parents with so many children that they are told in several transactions.
CREATE TABLE telling (
    parent INTEGER PRIMARY KEY REFERENCES jobs (seq)
) STRICT;

-- Files below results/ whose jobs are gone; a row goes after its file.
CREATE TABLE trash (
    file TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE tags (
    tag TEXT NOT NULL,
    seq INTEGER NOT NULL REFERENCES jobs (seq),
    PRIMARY KEY (tag, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX tags_job ON tags (seq);

-- Append-only. The numbers have no gaps but those of pruned jobs:
-- max(seq) = count(*) + counters.pruned_events, or counters.last_event where nothing is left.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY,
    job     INTEGER NOT NULL,                       -- jobs.seq
    kind    TEXT NOT NULL,
    state   INTEGER NOT NULL CHECK (state BETWEEN 0 AND 8),
    attempt INTEGER NOT NULL,
    epoch   INTEGER NOT NULL,
    at      REAL NOT NULL,
    note    TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX events_job ON events (job);

CREATE TRIGGER events_stand BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'the log is only ever added to');
END;

CREATE TRIGGER events_stay BEFORE DELETE ON events
WHEN EXISTS (SELECT 1 FROM jobs WHERE seq = OLD.job)
BEGIN
    SELECT RAISE(ABORT, 'the log is only ever added to');
END;

-- What is paused: 'all', 'lane:NAME', 'function:MODULE:NAME', 'schedule:NAME'.
CREATE TABLE pauses (
    scope TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

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
