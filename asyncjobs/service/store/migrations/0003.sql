-- Deadlines that hold for jobs that wait, too: until now only who ran a job knew of its deadline, from the terms.

ALTER TABLE jobs ADD COLUMN deadline REAL;

UPDATE jobs
SET deadline = (SELECT CAST(terms AS TEXT) ->> '$.deadline' FROM calls WHERE seq = jobs.seq)
WHERE state < 4;

CREATE INDEX jobs_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND place IS NOT NULL;

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

INSERT INTO spans (field, value, first, last, jobs)
SELECT 'name', name, min(seq), max(seq), count(*) FROM jobs GROUP BY name;

INSERT INTO spans (field, value, first, last, jobs)
SELECT 'function', function, min(seq), max(seq), count(*) FROM jobs GROUP BY function;
