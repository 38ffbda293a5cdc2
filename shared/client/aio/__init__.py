"""The client for asynchronous programs. The blocking one in `client.sync` is generated from it."""
