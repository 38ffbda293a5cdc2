"""Access to the bus: connections, stores and streams over nats-py."""
