"""What runs a service: broker, consumers, leadership, health, database and logs."""
