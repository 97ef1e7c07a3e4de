"""Teachers: what is sent to them, what their replies mean, and what to do about it."""
