"""What was sent and what came back, on disk before anyone looks at it."""
