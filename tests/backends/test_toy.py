from __future__ import annotations

import threading

import numpy as np
import pytest

from palio.backends.toy import ToyFailed, load_toy, spin
from palio.core.errors import BackendFailed, RowRejected, SettingsError
from palio.core.ports import Placement
from palio.core.tensors import Array
from tests.kit.toy import MANIFEST, Given, make_toy


def _x(*values: float) -> dict[str, Array]:
    return {"x": np.array(values, np.float32)[:, np.newaxis]}


def test_y_is_x_doubled() -> None:
    np.testing.assert_array_equal(make_toy().run(_x(1, -2.5))["y"], [[2], [-5]])


def test_a_run_costs_its_base_and_its_rows() -> None:
    slept: list[float] = []
    toy = make_toy({"base_ms": 2, "per_row_ms": "0.5"}, sleep=slept.append)
    toy.run(_x(1))
    toy.run(_x(1, 2, 3, 4))
    assert slept == pytest.approx([0.0025, 0.004])


def test_a_busy_toy_spins_for_its_time() -> None:
    spin(0.0)
    assert make_toy({"base_ms": "0.01", "busy": True}).run(_x(1))["y"].item() == 2


def test_it_fails_on_the_value_it_was_told() -> None:
    toy = make_toy({"fail_when": 13})
    toy.run(_x(12))
    with pytest.raises(ToyFailed, match="x holds 13"):
        toy.run(_x(1, 13))


def test_it_blames_the_row_on_the_value_it_was_told() -> None:
    with pytest.raises(RowRejected, match="x holds 7"):
        make_toy({"reject_when": 7}).run(_x(1, 7))


def test_a_stall_lasts_until_the_gate_opens() -> None:
    gate = threading.Event()
    toy = make_toy({"stall_when": 3}, gate=gate)
    answers: list[Array] = []
    begun = threading.Thread(target=lambda: answers.append(toy.run(_x(3))["y"]))
    begun.start()
    assert answers == []
    gate.set()
    begun.join(timeout=10)
    assert [answer.item() for answer in answers] == [6]


def test_closing_ends_a_stall() -> None:
    toy = make_toy({"stall_when": 3})
    begun = threading.Thread(target=lambda: toy.run(_x(3)), daemon=True)
    begun.start()
    toy.close()
    begun.join(timeout=10)
    assert not begun.is_alive()


def test_nonsense_comes_out_on_demand() -> None:
    assert np.isnan(make_toy({"nan_when": 5}).run(_x(5, 6))["y"]).tolist() == [[True], [False]]
    assert make_toy({"wrong_shape": True}).run(_x(1, 2, 3))["y"].shape == (2, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base": 1}, r"no option 'base'; did you mean base_ms\?"),
        ({"base_ms": -1}, "base_ms must be a number ≥ 0"),
        ({"per_row_ms": "soon"}, r"per_row_ms must be a number \(got 'soon'\)"),
        ({"fail_when": True}, r"fail_when must be a number \(got True\)"),
        ({"busy": "yes"}, "busy must be true or false"),
    ],
)
def test_options_are_known_and_of_their_kind(options: Given, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_toy(options)


def test_threads_it_would_not_use_are_refused() -> None:
    wanted = Placement(device="cpu", precision="fp32", threads=4)
    with pytest.raises(SettingsError, match="threads 4 was asked for, but 1 is in effect"):
        load_toy(MANIFEST, wanted)


def test_it_takes_nothing_but_x() -> None:
    with pytest.raises(BackendFailed, match="takes x, not nothing"):
        make_toy().run({})
