"""Two hosts made of Linux namespaces, a store and a teacher outside both, and faults of links, disks and nodes.

Each host has its own processes, disk, memory files, name and address, and its kernel's side of every connection: what
is lost, late or received is therefore what it would be on two machines. The teacher's log judges, by what the asker's
kernel acknowledged. Root and iproute2 are needed.

    python -m tests.hosts [CASE...] [--out FOLDER] [--prompts N]      all cases take about 40 minutes
"""
