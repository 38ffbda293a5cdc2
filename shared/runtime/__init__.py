"""The service runtime: broker, consumers, leader election, health, database and logs."""
