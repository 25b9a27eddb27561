-- Every statement of the store, by name. Question marks are filled in the order in which they stand.
-- Where a partial index is meant, its condition is repeated word for word: SQLite uses it only then.
-- Question marks after VALUES are a row: for many rows at once they are repeated (`Transaction.run_many`).

-- ---- the transaction

-- name: add_event
INSERT INTO events (seq, job, kind, state, attempt, epoch, at, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: tallies
SELECT jobs FROM tallies ORDER BY state;

-- name: set_tally
UPDATE tallies SET jobs = ? WHERE state = ?;

-- name: counter
SELECT value FROM counters WHERE name = ?;

-- name: set_counter
UPDATE counters SET value = ? WHERE name = ?;

-- name: raise_counter
UPDATE counters SET value = value + ? WHERE name = ?;

-- name: last_job
SELECT max(coalesce((SELECT max(seq) FROM jobs), 0), (SELECT value FROM counters WHERE name = 'last_job'));

-- name: last_event
SELECT max(coalesce((SELECT max(seq) FROM events), 0), (SELECT value FROM counters WHERE name = 'last_event'));

-- ---- opening

-- name: forget_moves
DELETE FROM moves;

-- name: add_move
INSERT INTO moves (before, after) VALUES (?, ?);

-- name: unended_attempts
SELECT seq, id, state, attempt, epoch, failures, crashes, max_crashes, at_most_once, keep, stop, limit_name,
    EXISTS (SELECT 1 FROM edges WHERE parent = jobs.seq) OR EXISTS (SELECT 1 FROM edges WHERE child = jobs.seq)
        OR EXISTS (SELECT 1 FROM checkpoints WHERE seq = jobs.seq),
    NOT at_most_once OR started_at IS NOT NULL
FROM jobs WHERE state = ? AND seq > ? ORDER BY seq LIMIT ?;

-- A retry that was to come within the hour comes within the hour, whatever the wall clock says by now.
-- name: hasten_retries
UPDATE jobs SET due = ? WHERE place = 1 AND due > ? AND state = 2;

-- ---- submitting

-- name: job_by_id
SELECT seq, state, digest FROM jobs WHERE id = ?;

-- name: job_by_key
SELECT id, state, digest FROM jobs WHERE key = ?;

-- name: add_job
INSERT INTO jobs (seq, id, key, digest, name, function, lane, priority, due, parents, after, at_most_once, max_crashes,
    submitted_at, keep, tags, limit_name, schedule, deadline, state, place, attempt, epoch, fence, started_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_call
INSERT INTO calls (seq, payload, terms) VALUES (?, ?, ?);

-- name: add_tag
INSERT INTO tags (tag, seq) VALUES (?, ?);

-- name: widen_span
INSERT INTO spans (field, value, first, last, jobs) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (field, value) DO UPDATE SET last = excluded.last, jobs = jobs + excluded.jobs;

-- name: add_edge
INSERT INTO edges (parent, child, is_open) VALUES (?, ?, ?);

-- ---- claiming

-- name: due_jobs
SELECT seq, id, state, attempt FROM jobs WHERE place = 1 AND due <= ? ORDER BY due LIMIT ?;

-- Wherever they wait.
-- name: overdue_jobs
SELECT name, seq, id, state, attempt, epoch, failures, crashes, max_crashes, at_most_once, keep, stop, limit_name,
    EXISTS (SELECT 1 FROM edges WHERE parent = jobs.seq) OR EXISTS (SELECT 1 FROM edges WHERE child = jobs.seq)
        OR EXISTS (SELECT 1 FROM checkpoints WHERE seq = jobs.seq),
    NOT at_most_once OR started_at IS NOT NULL
FROM jobs WHERE deadline <= ? AND deadline IS NOT NULL AND place IS NOT NULL ORDER BY deadline LIMIT ?;

-- name: make_ready
UPDATE jobs SET state = 0, place = 0 WHERE seq = ?;

-- name: ready_jobs
SELECT j.seq, j.id, j.name, j.function, c.payload, c.terms, j.lane, j.attempt, j.failures, j.crashes, j.submitted_at,
    j.due, j.after, j.limit_name, j.at_most_once, j.deadline, (SELECT body FROM checkpoints WHERE seq = j.seq)
FROM jobs AS j JOIN calls AS c ON c.seq = j.seq
WHERE j.place = 0 AND j.lane = ? ORDER BY j.priority DESC, j.seq LIMIT ?;

-- What may start at most once has not started until its worker says so (`begin`).
-- name: start
WITH new (seq, attempt, epoch, fence, at) AS NOT MATERIALIZED (VALUES (?, ?, ?, ?, ?))
UPDATE jobs SET state = 1, place = NULL, attempt = new.attempt, epoch = new.epoch, fence = new.fence,
    started_at = CASE WHEN at_most_once THEN NULL ELSE new.at END
FROM new WHERE jobs.seq = new.seq;

-- name: begin
UPDATE jobs SET started_at = ? WHERE id = ? AND fence = ? AND state IN (1, 3);

-- name: park
UPDATE jobs SET place = ? WHERE seq = ?;

-- name: next_paused_function
SELECT function FROM jobs WHERE place = 4 AND function > ? ORDER BY function LIMIT 1;

-- name: parked_by_pause
SELECT seq FROM jobs WHERE place = 4 AND function = ? ORDER BY priority DESC, seq LIMIT ?;

-- What a claim has to look at, in one statement: each of its parts is one step in an index.
-- name: horizon
SELECT (SELECT min(due) FROM jobs WHERE place = 1),
    (SELECT min(deadline) FROM jobs WHERE deadline IS NOT NULL AND place IS NOT NULL),
    (SELECT min(opens_at) FROM limits WHERE opens_at IS NOT NULL),
    (SELECT min(next_at) FROM schedules
        WHERE NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'schedule:' || schedules.name)),
    EXISTS (SELECT 1 FROM pauses),
    EXISTS (SELECT 1 FROM jobs WHERE place = 4 AND function >= ''),
    (SELECT jobs > 0 FROM tallies WHERE state = 0),
    (SELECT lane FROM jobs WHERE place = 0 AND lane >= '' ORDER BY lane LIMIT 1),
    (SELECT lane FROM jobs WHERE place = 0 AND lane >= '' ORDER BY lane DESC LIMIT 1);

-- name: next_ready_lane
SELECT lane FROM jobs WHERE place = 0 AND lane > ? ORDER BY lane LIMIT 1;

-- ---- ending

-- name: attempt
SELECT seq, id, state, attempt, epoch, failures, crashes, max_crashes, at_most_once, keep, stop, limit_name,
    EXISTS (SELECT 1 FROM edges WHERE parent = jobs.seq) OR EXISTS (SELECT 1 FROM edges WHERE child = jobs.seq)
        OR EXISTS (SELECT 1 FROM checkpoints WHERE seq = jobs.seq),
    NOT at_most_once OR started_at IS NOT NULL
FROM jobs WHERE id = ?;

-- The question mark is a JSON list of ids.
-- name: attempts
SELECT jobs.seq, jobs.id, state, attempt, epoch, failures, crashes, max_crashes, at_most_once, keep, stop, limit_name,
    EXISTS (SELECT 1 FROM edges WHERE parent = jobs.seq) OR EXISTS (SELECT 1 FROM edges WHERE child = jobs.seq)
        OR EXISTS (SELECT 1 FROM checkpoints WHERE seq = jobs.seq),
    NOT at_most_once OR started_at IS NOT NULL
FROM json_each(?) AS asked JOIN jobs ON jobs.id = asked.value;

-- name: attempt_by_seq
SELECT seq, id, state, attempt, epoch, failures, crashes, max_crashes, at_most_once, keep, stop, limit_name,
    EXISTS (SELECT 1 FROM edges WHERE parent = jobs.seq) OR EXISTS (SELECT 1 FROM edges WHERE child = jobs.seq)
        OR EXISTS (SELECT 1 FROM checkpoints WHERE seq = jobs.seq),
    NOT at_most_once OR started_at IS NOT NULL
FROM jobs WHERE seq = ?;

-- name: add_outcome
INSERT INTO outcomes (seq, body, file) VALUES (?, ?, ?);

-- name: end
WITH new (seq, state, failures, crashes, ended_at, expires_at, note, stop, size) AS NOT MATERIALIZED
    (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?))
UPDATE jobs SET state = new.state, place = NULL, failures = new.failures, crashes = new.crashes,
    ended_at = new.ended_at, expires_at = new.expires_at, note = new.note, stop = new.stop, size = new.size
FROM new WHERE jobs.seq = new.seq;

-- name: put_back
UPDATE jobs SET state = ?, place = ?, attempt = ?, failures = ?, crashes = ?, due = ?, note = ? WHERE seq = ?;

-- name: ask_to_stop
UPDATE jobs SET state = 3, stop = ? WHERE seq = ?;

-- name: drop_checkpoint
DELETE FROM checkpoints WHERE seq = ?;

-- name: drop_edges_to
DELETE FROM edges WHERE child = ?;

-- name: put_checkpoint
INSERT INTO checkpoints (seq, attempt, body) VALUES (?, ?, ?)
ON CONFLICT (seq) DO UPDATE SET attempt = excluded.attempt, body = excluded.body;

-- ---- dependencies

-- name: open_children
SELECT child FROM edges INDEXED BY edges_open WHERE parent = ? AND is_open = 1 ORDER BY child LIMIT ?;

-- name: close_edge
UPDATE edges SET is_open = 0 WHERE parent = ? AND child = ?;

-- A job with parents is QUEUED in place 2 until the last of them has succeeded.
-- name: one_parent_less
UPDATE jobs SET parents = parents - 1,
    place = CASE WHEN parents > 1 THEN 2 WHEN due > ? THEN 1 ELSE 0 END
WHERE seq = ? AND place = 2;

-- name: tell_later
INSERT OR IGNORE INTO telling (parent) VALUES (?);

-- name: told
DELETE FROM telling WHERE parent = ?;

-- name: next_telling
SELECT t.parent, j.id, j.state FROM telling AS t JOIN jobs AS j ON j.seq = t.parent LIMIT 1;

-- ---- reading

-- name: row
SELECT seq, id, name, function, lane, state, priority, attempt, failures, crashes, submitted_at, started_at, ended_at,
    due, key, after, tags, note, stop, size, limit_name, schedule
FROM jobs WHERE id = ?;

-- name: rows_from
SELECT seq, id, name, function, lane, state, priority, attempt, failures, crashes, submitted_at, started_at, ended_at,
    due, key, after, tags, note, stop, size, limit_name, schedule
FROM jobs WHERE seq < ? ORDER BY seq DESC LIMIT ?;

-- Where a stretch of so many rows ends.
-- name: stretch_end
SELECT seq FROM jobs WHERE seq < ? ORDER BY seq DESC LIMIT 1 OFFSET ?;

-- name: span
SELECT first, last FROM spans WHERE field = ? AND value = ?;

-- What has no index of its own is compared with every row of a stretch.
-- name: rows_between
SELECT seq, id, name, function, lane, state, priority, attempt, failures, crashes, submitted_at, started_at, ended_at,
    due, key, after, tags, note, stop, size, limit_name, schedule
FROM jobs
WHERE seq < :before AND seq >= :end
    AND (:name IS NULL OR name = :name)
    AND (:function IS NULL OR function = :function)
    AND (:lane IS NULL OR lane = :lane)
    AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
ORDER BY seq DESC LIMIT :limit;

-- Ids begin with the time: those with the highest are the newest, or nearly so.
-- name: rows_with_id
SELECT seq, id, name, function, lane, state, priority, attempt, failures, crashes, submitted_at, started_at, ended_at,
    due, key, after, tags, note, stop, size, limit_name, schedule
FROM jobs WHERE id >= ? AND id < ? AND +seq < ? ORDER BY id DESC LIMIT ?;

-- name: rows_in_state
SELECT seq, id, name, function, lane, state, priority, attempt, failures, crashes, submitted_at, started_at, ended_at,
    due, key, after, tags, note, stop, size, limit_name, schedule
FROM jobs WHERE state = ? AND seq < ? ORDER BY seq DESC LIMIT ?;

-- name: rows_of_schedule
SELECT seq, id, name, function, lane, state, priority, attempt, failures, crashes, submitted_at, started_at, ended_at,
    due, key, after, tags, note, stop, size, limit_name, schedule
FROM jobs WHERE schedule = ? AND seq < ? ORDER BY seq DESC LIMIT ?;

-- name: rows_with_tag
SELECT j.seq, j.id, j.name, j.function, j.lane, j.state, j.priority, j.attempt, j.failures, j.crashes, j.submitted_at,
    j.started_at, j.ended_at, j.due, j.key, j.after, j.tags, j.note, j.stop, j.size, j.limit_name, j.schedule
FROM tags AS t JOIN jobs AS j ON j.seq = t.seq WHERE t.tag = ? AND t.seq < ? ORDER BY t.seq DESC LIMIT ?;

-- name: outcome
SELECT j.id, j.state, j.note, j.attempt, j.size, o.body, o.file
FROM jobs AS j LEFT JOIN outcomes AS o ON o.seq = j.seq WHERE j.id = ?;

-- name: events
SELECT e.seq, j.id, e.kind, e.state, e.attempt, e.epoch, e.at, e.note
FROM events AS e JOIN jobs AS j ON j.seq = e.job WHERE e.seq > ? ORDER BY e.seq LIMIT ?;

-- name: events_of
SELECT seq, kind, state, attempt, epoch, at, note FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?;

-- ---- pauses

-- name: pauses
SELECT scope FROM pauses ORDER BY scope;

-- name: pause
INSERT OR IGNORE INTO pauses (scope) VALUES (?);

-- name: resume
DELETE FROM pauses WHERE scope = ?;

-- ---- pruning

-- name: expired
SELECT j.seq, j.id, j.state, j.name, j.function, (SELECT file FROM outcomes WHERE seq = j.seq)
FROM jobs AS j WHERE j.expires_at <= ? AND NOT EXISTS (SELECT 1 FROM edges WHERE parent = j.seq)
ORDER BY j.expires_at LIMIT ?;

-- name: prune_calls
DELETE FROM calls WHERE seq = ?;

-- name: prune_outcome
DELETE FROM outcomes WHERE seq = ?;

-- name: prune_tags
DELETE FROM tags WHERE seq = ?;

-- name: prune_job
DELETE FROM jobs WHERE seq = ?;

-- name: narrow_span
UPDATE spans SET jobs = jobs - ? WHERE field = ? AND value = ?;

-- name: drop_span
DELETE FROM spans WHERE field = ? AND value = ? AND jobs <= 0;

-- name: prune_events
DELETE FROM events WHERE job = ?;

-- name: throw_away
INSERT OR IGNORE INTO trash (file) VALUES (?);

-- name: trash
SELECT file FROM trash LIMIT ?;

-- name: thrown_away
DELETE FROM trash WHERE file = ?;

-- ---- limits

-- name: limit
SELECT running, starts, seconds FROM limits WHERE name = ?;

-- name: put_limit
INSERT INTO limits (name, running, starts, seconds) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET running = excluded.running, starts = excluded.starts, seconds = excluded.seconds;

-- name: running_under
SELECT count(*) FROM jobs WHERE limit_name = ? AND state IN (1, 3) AND state < 4;

-- name: starts_under
SELECT count(*), min(at) FROM starts WHERE limit_name = ?;

-- name: add_start
INSERT INTO starts (limit_name, fence, at) VALUES (?, ?, ?);

-- name: forget_starts
DELETE FROM starts WHERE limit_name = ? AND at <= ?;

-- name: next_parked_lane
SELECT lane FROM jobs WHERE place = 3 AND limit_name = ? AND lane > ? ORDER BY lane LIMIT 1;

-- name: parked_by_limit
SELECT seq FROM jobs WHERE place = 3 AND limit_name = ? AND lane = ? ORDER BY priority DESC, seq LIMIT ?;

-- name: opening_limits
SELECT name FROM limits WHERE opens_at <= ? ORDER BY opens_at LIMIT ?;

-- name: set_opening
UPDATE limits SET opens_at = ? WHERE name = ? AND opens_at IS NOT ?;

-- Starts that a clock that was set back has put into the future.
-- name: forget_future_starts
DELETE FROM starts WHERE at > ?;

-- name: some_limits
SELECT name FROM limits WHERE name > ? ORDER BY name LIMIT ?;

-- name: is_limit_used
SELECT EXISTS (SELECT 1 FROM jobs WHERE limit_name = ? AND state < 4) OR EXISTS (SELECT 1 FROM starts WHERE limit_name = ?);

-- name: drop_limit
DELETE FROM limits WHERE name = ?;

-- ---- schedules

-- name: put_schedule
INSERT INTO schedules (name, cron, zone, next_at, job) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, zone = excluded.zone, next_at = excluded.next_at,
    job = excluded.job;

-- name: schedules
SELECT name, cron, zone, job, next_at, EXISTS (SELECT 1 FROM pauses WHERE scope = 'schedule:' || schedules.name)
FROM schedules ORDER BY name;

-- name: drop_schedule
DELETE FROM schedules WHERE name = ?;

-- name: due_schedules
SELECT name, cron, zone, job, next_at FROM schedules
WHERE next_at <= ? AND NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'schedule:' || schedules.name)
ORDER BY next_at LIMIT ?;

-- name: reschedule
UPDATE schedules SET next_at = ? WHERE name = ?;

-- ---- replays

-- name: job_to_replay
SELECT j.seq, j.state, j.attempt, j.name, j.function, j.lane, j.priority, j.after, j.at_most_once, j.max_crashes, j.keep,
    j.tags, j.limit_name, j.digest, c.payload, c.terms
FROM jobs AS j JOIN calls AS c ON c.seq = j.seq WHERE j.id = ?;

-- name: job_with_tag
SELECT j.id FROM tags AS t JOIN jobs AS j ON j.seq = t.seq WHERE t.tag = ? ORDER BY t.seq DESC LIMIT 1;
