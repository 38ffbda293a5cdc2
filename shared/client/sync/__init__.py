"""The client for programs without an event loop.

`make docs-generate` writes `kinds`, `jobs`, `fleet` and `alerts` from the modules of these names in `client.aio`.
"""
