"""The use cases of the scheduler: the control loop, and evaluations of the fleet's history."""
