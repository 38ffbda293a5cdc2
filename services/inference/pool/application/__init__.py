"""The pool's use cases."""
