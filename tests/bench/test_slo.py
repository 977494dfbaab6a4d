from __future__ import annotations

import pytest

from palio.bench.slo import Slo, read_slo
from palio.core.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("p99<50ms", Slo(99, 50)),
        ("p99.9 <= 1.5s", Slo(99.9, 1500)),
        ("errors<1%, p50<2ms", Slo(50, 2, 0.01)),
    ],
)
def test_an_objective_is_read_as_people_write_it(text: str, slo: Slo) -> None:
    assert read_slo(text) == slo
    assert read_slo(str(slo)) == slo


@pytest.mark.parametrize(
    "text", ["", "p99", "p99<50", "p99>50ms", "p0<1ms", "p100<1ms", "errors<1%", "p50<1ms,p99<2ms"]
)
def test_what_is_no_objective_is_refused_with_one_that_is(text: str) -> None:
    with pytest.raises(SettingsError):
        read_slo(text)
