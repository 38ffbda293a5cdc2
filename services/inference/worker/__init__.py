"""One worker process: jobs in, results out."""
