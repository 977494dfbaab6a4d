from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palio.core.cpus import CPUS_PER_SPARE, CpuPlan, CpuRequest, plan_cpus
from palio.core.errors import SettingsError

REQUESTS = st.lists(
    st.tuples(
        st.none() | st.integers(1, 4), st.integers(1, 4), st.sampled_from((0.5, 1.0, 1.0, 3.0))
    ),
    max_size=5,
).map(
    lambda rows: [
        CpuRequest(model=f"m{at}", instances=instances, threads=threads, weight=weight)
        for at, (instances, threads, weight) in enumerate(rows)
    ]
)


def _least(requests: list[CpuRequest]) -> int:
    return sum((each.instances or 1) * each.threads for each in requests)


def _instances(plan: CpuPlan) -> list[int]:
    return [share.instances for share in plan.shares]


@given(cpus=st.integers(1, 40), requests=REQUESTS)
def test_a_plan_adds_up_or_is_refused(cpus: int, requests: list[CpuRequest]) -> None:
    if _least(requests) > cpus:
        with pytest.raises(SettingsError, match=f"cpus: {_least(requests)}"):
            plan_cpus(cpus, requests)
        return
    plan = plan_cpus(cpus, requests)
    assert plan.computing <= plan.cpus == cpus
    assert plan.tokenise_thread == (plan.computing < cpus)
    assert [share.model for share in plan.shares] == [each.model for each in requests]
    for share, asked in zip(plan.shares, requests, strict=True):
        assert share.threads == asked.threads
        assert share.instances >= 1
        assert asked.instances in (None, share.instances)


@given(cpus=st.integers(1, 40), requests=REQUESTS)
def test_auto_leaves_nothing_that_it_could_use(cpus: int, requests: list[CpuRequest]) -> None:
    if _least(requests) > cpus:
        return
    plan = plan_cpus(cpus, requests)
    left = cpus - plan.computing - cpus // CPUS_PER_SPARE
    assert all(left < each.threads for each in requests if each.instances is None)


@given(cpus=st.integers(1, 40), count=st.integers(1, 6))
def test_equals_get_equal_shares(cpus: int, count: int) -> None:
    if count > cpus:
        return
    instances = _instances(plan_cpus(cpus, [CpuRequest(model=f"m{n}") for n in range(count)]))
    assert max(instances) - min(instances) <= 1
    assert instances == sorted(instances, reverse=True)


@given(cpus=st.integers(1, 40), requests=REQUESTS)
def test_the_way_out_that_is_offered_works(cpus: int, requests: list[CpuRequest]) -> None:
    told = max(_least(requests), 1)
    plan = plan_cpus(cpus, requests, told=told)
    assert (plan.cpus, plan.machine_cpus) == (told, cpus)


def test_one_model_gets_one_thread_instances_before_threads() -> None:
    plan = plan_cpus(2, [CpuRequest(model="minilm")])
    assert _instances(plan) == [2]
    assert not plan.tokenise_thread


def test_on_one_cpu_the_tokeniser_shares_it() -> None:
    assert not plan_cpus(1, [CpuRequest(model="minilm")]).tokenise_thread


def test_a_large_machine_keeps_a_cpu_in_eight_for_the_front() -> None:
    plan = plan_cpus(16, [CpuRequest(model="minilm")])
    assert _instances(plan) == [14]
    assert plan.tokenise_thread


def test_weights_are_shares() -> None:
    requests = [CpuRequest(model="a", weight=3.0), CpuRequest(model="b", weight=1.0)]
    assert _instances(plan_cpus(4, requests)) == [3, 1]


def test_a_refusal_says_the_sum_and_both_ways_out() -> None:
    requests = [CpuRequest(model="a", instances=2, threads=2), CpuRequest(model="b")]
    with pytest.raises(SettingsError) as refused:
        plan_cpus(2, requests)
    assert str(refused.value) == (
        "the models would compute on 5 threads at once (instances x threads: a 2 x 2, b 1 x 1), "
        "but there are 2 CPUs: lower their instances or threads, "
        "or write `cpus: 5` to let them share"
    )


def test_more_models_than_cpus_are_refused_unless_told() -> None:
    requests = [CpuRequest(model="a"), CpuRequest(model="b")]
    with pytest.raises(SettingsError, match=r"but there is 1 CPU: serve fewer models here"):
        plan_cpus(1, requests)
    assert _instances(plan_cpus(1, requests, told=2)) == [1, 1]


def test_the_plan_is_printed_as_it_is() -> None:
    plan = plan_cpus(2, [CpuRequest(model="minilm"), CpuRequest(model="toy")], told=4)
    assert plan.lines() == (
        "CPUs: 4 as told; this machine gives 2; 4 computing at once; tokenising beside the workers",
        "  minilm: 2 instances x 1 thread",
        "  toy: 2 instances x 1 thread",
    )
    assert plan.share("toy").instances == 2
    with pytest.raises(KeyError):
        plan.share("nobody")


@pytest.mark.parametrize("wrong", [{"instances": 0}, {"threads": 0}, {"weight": 0.0}])
def test_a_request_for_nothing_is_no_request(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="model='m'"):
        CpuRequest(model="m", **wrong)


def test_a_name_is_planned_once() -> None:
    with pytest.raises(ValueError, match="same model"):
        plan_cpus(4, [CpuRequest(model="m"), CpuRequest(model="m")])
    with pytest.raises(ValueError, match="always a CPU"):
        plan_cpus(0, [])
