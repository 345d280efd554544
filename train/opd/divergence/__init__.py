"""How the student is compared with its target at one position: the divergence part."""

from train.opd.divergence import kl_and_jsd, sampled_kl  # noqa: F401  (registers the options)
