"""Training batches: drawing, packing, corrupting documents."""
