"""The client for asynchronous programs. The blocking one in `client.sync` is written from it."""
