"""The pool on every node: its workers, the queue's order and what it tells."""
