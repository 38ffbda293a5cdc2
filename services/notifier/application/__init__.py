"""The use cases of the notifier: alerts in, deliveries out."""
