"""The bars of the parts that are measured by themselves: a missed one is in the exit code."""


def judged(figure: str, *, met: bool) -> int:
    """Print the figure with its verdict; the exit code that follows from it."""
    print(f"{figure}: {'met' if met else 'NOT MET'}")
    return 0 if met else 1
