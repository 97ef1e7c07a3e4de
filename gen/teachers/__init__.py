"""Teachers: what to send them, what their replies mean, and what to do next."""
