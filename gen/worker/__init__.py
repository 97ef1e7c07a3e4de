"""A worker leases chunks, has their samples asked, and seals them."""
