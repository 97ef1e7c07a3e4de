"""What a worker and the actors that all workers share say to each other."""
