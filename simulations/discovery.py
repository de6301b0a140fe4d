"""How simulated devices hear of each other's addresses."""

from __future__ import annotations

import enum


class Discovery(enum.StrEnum):
    """How devices hear of each other's addresses."""

    LAN = "lan"  # everybody is heard by all it can reach, as with mDNS
    SEEDS = "seeds"  # at each start a device knows two others, as from an invitation
