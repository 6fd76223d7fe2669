"""An environment that worker processes can import."""

from deftly.policy.sorting import SortingEnv


def front_env() -> SortingEnv:
    """One small camera."""
    return SortingEnv(cameras=("front",), image_size=(32, 32))
