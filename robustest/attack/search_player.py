"""What each part of the few-pixel search needs of the search that it is a part of."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from robustest.attack.search_asked import Asked
from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_states import State
from robustest.attack.search_tuning import Tuning


class Player(Protocol):
    """One image's search: what it believes, what it asked, the best it found, and how many queries are left."""

    beliefs: Beliefs
    rng: np.random.Generator
    tuning: Tuning
    asked: Asked
    best: State | None
    left: int

    @property
    def stop(self) -> int:
        """Queries left at which no smaller state is looked for."""
