"""A worker: leases chunks, has their samples asked, seals them."""
