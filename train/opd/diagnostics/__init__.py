"""What a run logs of its batches, and checks of the teacher."""
