"""One worker process: runs jobs and stores their results."""
