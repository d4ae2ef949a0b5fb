"""Following the recorded history: one mechanism for every service that acts on facts.

`follower.sql` and `believed.sql` are included by the migrations of every service that folds.
"""

from shared.follower.follower import Follower
from shared.follower.records import Heartbeat, Kind, Recorded

__all__ = ["Follower", "Heartbeat", "Kind", "Recorded"]
