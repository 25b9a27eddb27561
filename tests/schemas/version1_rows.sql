-- What a service of the first version left: a job that ended, one that waits, one that ran when it was killed.
INSERT INTO jobs (seq, id, digest, name, function, lane, state, place, priority, attempt, epoch, max_crashes,
    submitted_at, ended_at, expires_at, size)
VALUES
    (1, '00000000000000000000000001', x'01', 'fit', 'm:fit', 'process', 4, NULL, 0, 1, 1, 3, 1.0, 5.0, 9e9, 5),
    (2, '00000000000000000000000002', x'02', 'fit', 'm:fit', 'process', 0, 0, 0, 0, 0, 3, 1.0, NULL, NULL, 0),
    (3, '00000000000000000000000003', x'03', 'fit', 'm:fit', 'process', 1, NULL, 0, 1, 1, 3, 1.0, NULL, NULL, 0);

INSERT INTO calls (seq, payload, terms) VALUES (1, x'c1', x'7b7d'), (2, x'c2', x'7b7d'), (3, x'c3', x'7b7d');

INSERT INTO events (seq, job, kind, state, attempt, epoch, at)
VALUES
    (1, 1, 'submitted', 0, 0, 1, 1.0),
    (2, 1, 'claimed', 1, 1, 1, 2.0),
    (3, 1, 'succeeded', 4, 1, 1, 5.0),
    (4, 2, 'submitted', 0, 0, 1, 1.0),
    (5, 3, 'submitted', 0, 0, 1, 1.0),
    (6, 3, 'claimed', 1, 1, 1, 2.0);

UPDATE tallies SET jobs = 1 WHERE state IN (0, 1, 4);
UPDATE counters SET value = 1 WHERE name = 'epoch';
PRAGMA user_version = 1;
