"""What all components agree on: messages, subjects, streams, metrics and errors. No I/O."""
