"""Probing: what can be read from the hidden states of a saved model, layer by layer, beside both controls.

    python -m probes.run model=runs/quickstart/teacher-1a2b3c4d data=tiny probe=quickstart

`model` is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder. Results go to a run folder:
summary.json holds a row for each task, probe and layer. The same command again continues after the last part that was
finished (one task, one probe, trained or random weights), and does nothing once it is complete.
"""




LINEAR, VPROBE = "linear", "vprobe"
ENDING = 4  # tokens of the longest ending: two markers and a name
