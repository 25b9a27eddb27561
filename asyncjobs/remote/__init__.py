"""What lives on an event loop and is used by jobs elsewhere: `hosted` there, `asking` in a worker, `queue` a face."""
