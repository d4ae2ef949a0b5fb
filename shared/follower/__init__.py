"""Following the recorded history: one mechanism for every service that acts on facts.

`follower.sql` is included by the migrations of every service that folds; who waits for what a fold did is woken by it.
"""

from shared.follower.follower import Follower
from shared.follower.records import Heartbeat, Kind, Recorded

__all__ = ["Follower", "Heartbeat", "Kind", "Recorded"]
