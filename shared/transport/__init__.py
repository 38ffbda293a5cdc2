"""How the bus is read and written: connections, stores and streams over nats-py."""
