-- Deadlines that hold for jobs that wait, too: until now only who ran a job knew of its deadline, from the terms.

ALTER TABLE jobs ADD COLUMN deadline REAL;

UPDATE jobs
SET deadline = (SELECT CAST(terms AS TEXT) ->> '$.deadline' FROM calls WHERE seq = jobs.seq)
WHERE state < 4;

CREATE INDEX jobs_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND place IS NOT NULL;
