"""The use cases of the anomaly detector: frames and events in, alerts out."""
