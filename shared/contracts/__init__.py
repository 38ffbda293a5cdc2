"""What all sides agree on: messages, subjects, streams, metrics and errors. Without I/O."""
