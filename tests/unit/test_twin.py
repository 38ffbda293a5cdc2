"""The twin, its workloads, the policies on it, and the network's file."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.contracts.messages.commands import PoolPolicy
from accelerator_autopilot.scheduler.app import usable_policies
from accelerator_autopilot.scheduler.domain.pool_arrays import Action
from accelerator_autopilot.scheduler.policies.action_mapping import OUTPUTS
from accelerator_autopilot.scheduler.policies.builtin import policy_maker, policy_names
from accelerator_autopilot.scheduler.policies.builtin.learned import Learned, shipped_checkpoint
from accelerator_autopilot.scheduler.policies.network import Checkpoint, load_checkpoint
from accelerator_autopilot.scheduler.policies.network_features import FEATURES, features
from accelerator_autopilot.scheduler.policies.reserve_parameters import history, shipped_numbers
from accelerator_autopilot.scheduler.policies.shadow_policies import PolicyProposals, ShadowPolicies
from accelerator_autopilot.scheduler.settings import SchedulerSettings
from accelerator_autopilot.scheduler.twin import kernel
from accelerator_autopilot.scheduler.twin.rollout import play
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace, Twin, bound_j
from accelerator_autopilot.scheduler.twin.workloads import random_pool, random_pools
from tests.unit.test_scheduler import seen

CURVE = np.array([[100.0, 250.0], [1.5, 1.0], [100.0, 250.0]])
MODEL = PoolModel(4, CURVE, idle_w=70.0, load_w=106.0, load_s=np.array([20.0]), slack_s=30.0, step_s=0.5)
TRACE = Trace(np.array([0.0, 1.0, 2.0, 100.0]), np.full(4, 10.0))


def act(twin: Twin, replicas: int, cap_w: float = 250.0, delay_s: float = 0.0) -> None:
    twin.act(Action(np.array([replicas]), np.array([cap_w]), np.array([delay_s])))


class TestTwin:
    def test_a_pool_found_warm_serves_at_once_and_counts_its_joules(self) -> None:
        twin = Twin([MODEL], [TRACE], 0)
        act(twin, 4)
        told = twin.seen()
        assert (told.arrivals[0], told.busy[0], told.queue_depth[0]) == (3, 2, 0)
        # Three jobs from 0, 1 and 2 s on, to 10 s: 27 s of work at 250 W, the rest of 40 s at 70 W.
        assert twin.pools["joules"][0] == pytest.approx(27 * 250 + 13 * 70)
        act(twin, 4)
        assert twin.pools["done"][0] == 3
        assert twin.seen().mean_service_s[0] == pytest.approx(10.0)

    def test_what_is_switched_on_loads_first_and_what_is_switched_off_ends_its_job(self) -> None:
        twin = Twin([replace(MODEL, warm=False)], [TRACE], 0)
        act(twin, 1)
        assert (twin.seen().loading[0], twin.seen().queue_depth[0]) == (1, 3)
        act(twin, 1)
        act(twin, 0)
        act(twin, 0)
        assert twin.pools["done"][0] == 1, "the job that ran was ended, the others wait"
        assert (twin.seen().ready[0], twin.seen().queue_depth[0]) == (0, 2)
        assert twin.seen().oldest_wait_s[0] == pytest.approx(39.0)

    def test_a_cap_makes_jobs_slower_and_cheaper(self) -> None:
        full, capped = (play_one(replace(MODEL, idle_w=0.0), cap) for cap in (250.0, 100.0))
        assert capped[0] == pytest.approx(4 * 10 * 1.5 * 100, rel=0.05)
        assert full[0] == pytest.approx(4 * 10 * 250, rel=0.02)
        assert bound_j(MODEL, TRACE) == 4 * 10 * 1.5 * 100

    def test_batches_share_a_replica_and_a_delay_waits_for_company(self) -> None:
        batched = replace(MODEL, size=1, slots=3, stretch=0.1, alone=0.5)
        twin = Twin([batched], [TRACE], 0)
        act(twin, 1)
        act(twin, 1)
        assert twin.pools["done"][0] == 3, "three at once, each a fifth slower than alone"
        waiting = Twin([replace(batched, slots=4)], [TRACE], 0)
        act(waiting, 1, delay_s=30.0)
        assert waiting.seen().queue_depth[0] == 3

    def test_heat_slows_and_faults_begin_the_job_anew(self) -> None:
        hot = replace(MODEL, heat_c_per_w=0.5, hot_c=60.0)
        cool_s, hot_s = (Twin([m], [Trace(np.zeros(1), np.array([200.0]))], 0) for m in (MODEL, hot))
        for _ in range(22):
            act(cool_s, 1)
            act(hot_s, 1)
        assert (cool_s.pools["done"][0], hot_s.pools["done"][0]) == (1, 0)
        broken = Twin([replace(MODEL, faults_per_day=86400 / 30)], [Trace(np.zeros(8), np.full(8, 20.0))], 0)
        for _ in range(100):
            act(broken, 4)
        assert broken.pools["faults"][0] > 10
        assert broken.pools["done"][0] + broken.seen().queue_depth[0] + broken.seen().busy[0] == 8, "no job is lost"

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6), wishes=st.lists(st.integers(0, 60), min_size=1, max_size=60))
    def test_whatever_is_wished_jobs_are_neither_lost_nor_done_twice(self, seed: int, wishes: list[int]) -> None:
        random = np.random.default_rng(seed)
        model, trace = random_pool(random, 600.0)
        twin = Twin([model], [trace], seed)
        for wish in wishes:
            act(twin, wish, float(random.uniform(50, 600)))
            pool, told = twin.pools[0], twin.seen()
            running = (twin.slots["job"] != kernel.NO_JOB).sum()
            assert pool["come"] - pool["first"] == pool["done"] + told.queue_depth[0] + running
            assert 0 <= told.ready[0] + told.loading[0] <= model.size + told.busy[0]
            assert pool["new_joules"] >= 0

    def test_rows_do_not_touch_each_other_and_a_seed_repeats(self) -> None:
        models, traces = random_pools(np.random.default_rng(3), 5, 1200.0)
        together = play(policy_maker("queue_lag"), models, traces, 9)
        again = play(policy_maker("queue_lag"), models, traces, 9)
        assert together.joules.tolist() == again.joules.tolist()
        alone = play(policy_maker("static"), models[2:3], traces[2:3], 9)
        assert alone.joules[0] == play(policy_maker("static"), models, traces, 9).joules[2]


def play_one(model: PoolModel, cap_w: float) -> tuple[float, int]:
    twin = Twin([model], [TRACE], 0)
    while not twin.ended.all():
        act(twin, 4, cap_w)
    return float(twin.pools["joules"][0]), int(twin.pools["late"][0])


class TestPolicies:
    @pytest.mark.parametrize("name", policy_names())
    def test_every_policy_keeps_to_the_pool_and_serves_it(self, name: str) -> None:
        models, traces = random_pools(np.random.default_rng(11), 6, 1800.0)
        played = play(policy_maker(name), models, traces, 1)
        assert (played.in_time > 0.5).all()
        assert (played.ratio_to_bound >= 1.0).all(), "nobody beats the bound"

    def test_the_learned_policy_and_the_tuned_rule_need_less_than_the_rules_in_use(self) -> None:
        models, traces = random_pools(np.random.default_rng(12), 24, 2400.0)
        names = ("learned", "reserve", "queue_lag", "utilisation", "static")
        cost = {n: np.log(play(policy_maker(n), models, traces, 1).ratio_to_bound).mean() for n in names}
        assert max(cost["learned"], cost["reserve"]) < min(cost["queue_lag"], cost["utilisation"], cost["static"])

    def test_an_unknown_policy_names_those_there_are(self) -> None:
        with pytest.raises(SettingsError, match="queue_lag"):
            policy_maker("crystal-ball")

    def test_features_stay_small_whatever_is_seen(self) -> None:
        models, traces = random_pools(np.random.default_rng(13), 8, 1200.0)
        twin = Twin(models, traces, 0)
        facts = twin.facts
        remembered = history(facts, shipped_numbers().of(facts))
        for step in range(60):
            now = twin.seen()
            rule = np.full((8, len(OUTPUTS)), 0.1 * (step % 5))
            columns = features(facts, now, remembered.observe(now), rule, np.zeros(8), np.full(8, 10.0))
            assert columns.shape == (8, len(FEATURES))
            assert np.isfinite(columns).all()
            assert np.abs(columns).max() < 12
            twin.act(Action.at_once(np.full(8, step % 7), facts.cap_w[:, -1]))


def replicas(proposals: PolicyProposals) -> int:
    proposal = proposals.by("queue_lag")
    assert proposal is not None
    return proposal.replicas


class TestPanel:
    def test_pools_that_come_go_and_change_do_not_disturb_the_others(self) -> None:
        panel = ShadowPolicies({"static": policy_maker("static"), "queue_lag": policy_maker("queue_lag")}, 10.0)
        first = [seen(pool="a", waiting=9), seen(pool="b", waiting=1)]
        assert replicas(panel.propose(first)["a"]) == 4
        with_new = [*first, seen(pool="c", bounds=PoolPolicy(ceiling=9), waiting=7)]
        assert replicas(panel.propose(with_new)["c"]) == 7
        changed = [seen(pool="a", waiting=0, bounds=PoolPolicy(ceiling=2)), seen(pool="b", waiting=0)]
        told = panel.propose(changed)
        assert replicas(told["a"]) == 2, "it is shown again what was seen, within the other ceiling"
        assert replicas(told["b"]) == 1
        assert set(told) == {"a", "b"}
        for number in range(30):
            told = panel.propose([seen(pool=f"p{number}"), seen(pool="b", waiting=0)])
        assert set(told) == {"p29", "b"}

    def test_a_pool_that_is_out_of_sight_for_a_moment_is_remembered(self) -> None:
        panel = ShadowPolicies({"queue_lag": policy_maker("queue_lag")}, 10.0)
        panel.propose([seen(pool="a", waiting=9), seen(pool="b")])
        panel.propose([seen(pool="b")])
        told = panel.propose([seen(pool="a", waiting=0), seen(pool="b")])
        assert replicas(told["a"]) == 4, "held for its cooldown"

    def test_what_was_seen_outlives_a_restart_as_if_there_had_been_none(self) -> None:
        makers = {name: policy_maker(name) for name in ("queue_lag", "reserve", "predictive")}
        first, again = ShadowPolicies(makers, 10.0), ShadowPolicies(makers, 10.0)
        random = np.random.default_rng(2)
        looks = [
            [
                seen(10.0 * i, pool=pool, waiting=int(random.integers(9)), arrivals=int(random.integers(30)))
                for pool in "ab"
            ]
            for i in range(90)
        ]
        for look in looks[:-1]:
            first.propose(look)
        again.restore(first.looks.kept())
        told, restored = first.propose(looks[-1]), again.propose(looks[-1])
        for name in "ab":
            for policy in makers:
                assert restored[name].by(policy) == told[name].by(policy)

    def test_a_new_pool_is_not_taken_for_one_that_was_quiet(self) -> None:
        makers = {"reserve": policy_maker("reserve")}
        with_past, alone = ShadowPolicies(makers, 10.0), ShadowPolicies(makers, 10.0)
        bounds = PoolPolicy(ceiling=40, target_wait_s=1.0)
        for second in range(60):
            with_past.propose([seen(10.0 * second, pool="old")])
        fresh = seen(600.0, pool="new", bounds=bounds, ready=40, load_time_s=30.0)
        told = with_past.propose([seen(600.0, pool="old"), fresh])["new"].by("reserve")
        assert told == alone.propose([fresh])["new"].by("reserve")
        assert told is not None
        assert told.replicas > 10, "what the operator sized it for counts while little is known"


class TestCheckpoint:
    def test_the_shipped_one_is_small_and_has_a_card(self) -> None:
        card = shipped_checkpoint().card
        shipped = resources.files("accelerator_autopilot.scheduler") / "data" / "policy.npz"
        assert len(shipped.read_bytes()) < 5_000_000
        assert {"seed", "rounds", "decisions", "training_s", "validation"} <= set(card)

    def test_one_of_another_version_or_damaged_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.npz"
        shipped_checkpoint().save(path)
        assert load_checkpoint(path).card == shipped_checkpoint().card
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(SettingsError, match="cannot be read"):
            load_checkpoint(path)
        with pytest.raises(SettingsError, match="nowhere"):
            load_checkpoint(tmp_path / "nowhere.npz")

    def test_other_features_are_another_version(self, tmp_path: Path, monkeypatch: Any) -> None:
        path = tmp_path / "policy.npz"
        shipped_checkpoint().save(path)
        monkeypatch.setattr("accelerator_autopilot.scheduler.policies.network.FEATURES", ("something", "else"))
        with pytest.raises(SettingsError, match="features belongs to another version"):
            load_checkpoint(path)

    def test_numbers_that_are_none_are_refused(self, tmp_path: Path) -> None:
        layers = [(w.copy(), b) for w, b in shipped_checkpoint().layers]
        layers[0][0][0, 0] = np.nan
        path = tmp_path / "policy.npz"
        Checkpoint(layers, {}).save(path)
        with pytest.raises(SettingsError, match="not finite"):
            load_checkpoint(path)

    def test_a_network_of_zeros_is_the_tuned_rule(self) -> None:
        models, traces = random_pools(np.random.default_rng(14), 4, 900.0)
        layer = np.zeros((len(OUTPUTS), len(FEATURES)), np.float32), np.zeros(len(OUTPUTS), np.float32)
        zeros = Checkpoint([layer], {})
        learned = play(lambda: Learned(zeros), models, traces, 1)
        assert learned.joules.tolist() == play(policy_maker("reserve"), models, traces, 1).joules.tolist()


class TestPolicyFile:
    def test_a_file_of_another_version_leaves_the_fall_back_to_decide(self, tmp_path: Path) -> None:
        path = tmp_path / "old.npz"
        path.write_bytes(b"not a checkpoint")
        usable = usable_policies(SchedulerSettings(policy_file=path))
        assert "learned" not in usable
        assert {"reserve", "queue_lag"} <= usable.keys()

    def test_without_the_fall_back_nothing_starts(self, tmp_path: Path) -> None:
        path = tmp_path / "old.npz"
        path.write_bytes(b"not a checkpoint")
        with pytest.raises(SettingsError, match=r"old\.npz"):
            usable_policies(SchedulerSettings(policy_file=path, fallback_policy="learned"))
