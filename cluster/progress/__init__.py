"""Progress of a run, for people, metrics servers and followers of a job."""
