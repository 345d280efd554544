"""Processes killed, disks filled and files damaged: the long proofs of `make torture`, and their samples."""
