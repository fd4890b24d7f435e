"""Masks of ``torch.nn.utils.prune``: weights set to zero in place, the baseline for real cuts."""
