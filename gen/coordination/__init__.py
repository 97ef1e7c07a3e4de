"""Messages between a worker and the actors that all workers share."""
