"""What the detector does with frames, events and alerts."""
