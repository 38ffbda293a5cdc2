"""The pool on every node: it supervises workers, maintains the queue and reports its status."""
