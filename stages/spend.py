"""What calls of remote models cost, and caps that are checked before a call, not after it."""

import threading
from dataclasses import dataclass

from funnel.errors import BudgetExceeded
from funnel.types import Usage


@dataclass(frozen=True, slots=True)
class SpendCaps:
    """Limits in US dollars; None means no limit."""

    per_query: float | None = None
    per_process: float | None = None


class Ledger:
    """What was spent and what calls under way may still cost; safe between threads.

    One ledger, :data:`PROCESS`, is shared by all funnels of a process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent = 0.0
        self._reserved = 0.0
        self._usd_per_unit: dict[str, float] = {}

    @property
    def spent_usd(self) -> float:
        """The sum of what was settled."""
        with self._lock:
            return self._spent

    def estimate(self, model: str, units: int, upper_bound: float | None) -> float:
        """What a call of this size should cost at most, in US dollars.

        Args:
            model: whose price is asked.
            units: the size of the call, in any measure that is always the same.
            upper_bound: what the call's own limits allow, if they do. Without it the highest price
                that the model took so far counts; a first call of an unknown price counts as 0.
        """
        with self._lock:
            seen = self._usd_per_unit.get(model, 0.0) * units
        return seen if upper_bound is None else upper_bound

    def reserve(self, usd: float, cap: float | None) -> None:
        """Set aside what a call may cost.

        Raises:
            BudgetExceeded: with it, the process would pass ``cap``.
        """
        with self._lock:
            total = self._spent + self._reserved
            if cap is not None and (total >= cap or total + usd > cap):
                raise BudgetExceeded(_message("process", total, usd, cap))
            self._reserved += usd

    def settle(self, reserved: float, model: str, units: int, cost_usd: float) -> None:
        """Replace a reservation by what the call cost, and remember the model's price."""
        with self._lock:
            self._reserved -= reserved
            self._spent += cost_usd
            if units > 0:
                price = cost_usd / units
                self._usd_per_unit[model] = max(price, self._usd_per_unit.get(model, 0.0))


PROCESS = Ledger()


class QuerySpend:
    """One query's usage, under its own cap and the process's.

    ``usage`` holds what endpoints reported; a call whose answer never came counts against the caps
    with its reservation, because it may have been charged.
    """

    def __init__(self, caps: SpendCaps, ledger: Ledger) -> None:
        self._caps = caps
        self._ledger = ledger
        self._booked = 0.0
        self.usage = Usage()

    def reserve(self, model: str, units: int, upper_bound: float | None) -> float:
        """Set aside what a call may cost and return it.

        Raises:
            BudgetExceeded: the call would pass the query's or the process's cap.
        """
        usd = self._ledger.estimate(model, units, upper_bound)
        cap = self._caps.per_query
        if cap is not None and (self._booked >= cap or self._booked + usd > cap):
            raise BudgetExceeded(_message("query", self._booked, usd, cap))
        self._ledger.reserve(usd, self._caps.per_process)
        return usd

    def settle(self, reserved: float, model: str, units: int, usage: Usage) -> None:
        """Book what a call cost."""
        self.usage += usage
        self._booked += usage.cost_usd
        self._ledger.settle(reserved, model, units, usage.cost_usd)

    def abandon(self, reserved: float, model: str) -> None:
        """Book a call that got no answer: its cost is unknown, the reservation stands for it."""
        self.usage += Usage(calls=1)
        self._booked += reserved
        self._ledger.settle(reserved, model, 0, reserved)


def _message(whose: str, spent: float, usd: float, cap: float) -> str:
    return (
        f"a call of about ${usd:.6f} would take this {whose} from ${spent:.6f} past its cap of "
        f"${cap:.6f}; raise 'max_usd_per_{whose}' or rank fewer candidates"
    )
