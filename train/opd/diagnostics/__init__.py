"""What a distillation measures about its batches, beside the loss."""
