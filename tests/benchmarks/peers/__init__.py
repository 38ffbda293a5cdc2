"""No-op jobs through other queues, each as it is used; `tests.benchmarks.peers.run` starts them."""
