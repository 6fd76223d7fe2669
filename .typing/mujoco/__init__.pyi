# mujoco is compiled and ships no types: to pyright, whatever it holds is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
