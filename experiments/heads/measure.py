"""How many heads at a fixed width? Several facts at once through one layer."""

from ..tasks.facts import train as train
