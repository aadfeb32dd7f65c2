"""What learners and env runners are given is what they take, whether it is later or earlier."""

from typing import Any


class TakesAnyState:
    """Comes before RLlib's class among the bases of a learner or an env runner.

    RLlib's leave out the weights of a state from before their own, as if it had come too late. So evaluations of an
    algorithm that had been restored to an earlier checkpoint went on with the later policy.
    """

    _weights_seq_no: int

    def set_state(self, state: dict[str, Any]) -> None:
        self._weights_seq_no = 0
        super().set_state(state)  # type: ignore[misc]
