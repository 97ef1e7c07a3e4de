"""How far a run is, for whoever wants to know."""
