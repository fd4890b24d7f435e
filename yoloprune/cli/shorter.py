"""Whole blocks in ``slim``: the flag ``--blocks``, and what went in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

BlocksOpt = Annotated[
    int,
    typer.Option(
        "--blocks",
        metavar="N",
        help="Whole residual blocks that go first, the least harmful ones by what is seen in the "
        "pictures of --calib; alone, or with a budget for channels.",
        min=0,
    ),
]


def shortened(record: Mapping[str, Any]) -> str:
    """Which blocks went, in a line; ``record`` as ``Shorter.to_dict`` gives it."""
    names = ", ".join(block["name"] for block in record["removed"])
    share = sum(block["macs"] for block in record["removed"])
    return (
        f"without {len(record['removed'])} of {record['removable']} blocks ({names}; {share:.1%} "
        f"of the MACs), chosen by {record['by']}; it differs from the network in which they are "
        f"silent by {record['self_test']['max_rel_diff']:.1e} of the output's scale"
    )
