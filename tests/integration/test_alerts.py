"""The alert rules, fired by ``promtool`` on series made up for each fault: which says which alerts, when, and that all else is silent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.support.prometheus import promtool
from tests.support.watching import PROMETHEUS, RULES, RULES_FILE

OF = 'app="baton"'

WELL: Mapping[str, str] = {
    'up{job="baton",component="router",instance="router-1"}': "1x60",
    'up{job="baton",component="controller",instance="controller"}': "1x60",
    'up{job="baton",component="worker",instance="prefill-1"}': "1x60",
    f"baton_controller_step_seconds_count{{{OF}}}": "0+60x60",
    f"baton_controller_failed_steps_total{{{OF}}}": "0x60",
    f'baton_pool_workers{{{OF},role="prefill",state="ready"}}': "1x60",
    f'baton_pool_workers{{{OF},role="decode",state="ready"}}': "2x60",
    f'baton_pool_wanted_workers{{{OF},role="prefill"}}': "1x60",
    f'baton_pool_wanted_workers{{{OF},role="decode"}}': "2x60",
    f'baton_pool_restarts_total{{{OF},role="decode"}}': "0x20 1x40",
    f'baton_requests_total{{{OF},class="chat",plan="disaggregated",outcome="finished"}}': "0+1000x60",
    f'baton_requests_total{{{OF},class="chat",plan="disaggregated",outcome="lost"}}': "0+5x60",
    f'baton_requests_total{{{OF},class="chat",plan="none",outcome="refused"}}': "0+10x60",
    f'baton_refusals_total{{{OF},class="chat",reason="waited"}}': "0+10x60",
    f'baton_refusals_total{{{OF},class="",reason="invalid"}}': "0+1000x60",
    f'baton_objective_requests_total{{{OF},class="chat",result="met"}}': "0+950x60",
    f'baton_objective_requests_total{{{OF},class="chat",result="missed_ttft"}}': "0+20x60",
    f'baton_objective_requests_total{{{OF},class="chat",result="missed_tpot"}}': "0+20x60",
    f'baton_objective_requests_total{{{OF},class="chat",result="refused"}}': "0+10x60",
    f'baton_router_oldest_waiting_seconds{{{OF},instance="router-1"}}': "3x60",
    f'baton_worker_stranded_kv_blocks{{{OF},worker="prefill-1",role="prefill"}}': "0x60",
    f'baton_worker_leased_kv_blocks{{{OF},worker="prefill-1",role="prefill"}}': "100x60",
    f'baton_worker_free_kv_blocks{{{OF},worker="prefill-1",role="prefill"}}': "300x60",
    f'baton_worker_kv_blocks{{{OF},worker="prefill-1",role="prefill"}}': "1000x60",
    f'baton_worker_expired_leases_total{{{OF},worker="prefill-1",role="prefill"}}': "7x60",
    f'baton_handoff_tokens_total{{{OF},source="transferred"}}': "0+1000x60",
    f'baton_handoff_tokens_total{{{OF},source="recomputed"}}': "0+10x60",
    f'vllm:num_preemptions_total{{{OF},worker="decode-1",role="decode"}}': "0+1x60",
    f'baton_prediction_bias_ratio{{{OF},quantity="ttft",role="prefill"}}': "-0.2x60",
    f'baton_prediction_bias_ratio{{{OF},quantity="queue",role="prefill"}}': "-1x60",
    f'baton_decision_seconds_bucket{{{OF},instance="router-1",le="0.0025"}}': "0+95x60",
    f'baton_decision_seconds_bucket{{{OF},instance="router-1",le="0.01"}}': "0+100x60",
    f'baton_decision_seconds_bucket{{{OF},instance="router-1",le="+Inf"}}': "0+100x60",
    f"baton_scaling_held{{{OF}}}": "0x20 1 0x39",
    f'baton_scaling_needed_workers{{{OF},role="prefill"}}': "1x60",
    f'baton_scaling_needed_workers{{{OF},role="decode"}}': "2x60",
    f'baton_scaling_target_workers{{{OF},role="prefill"}}': "1x60",
    f'baton_scaling_target_workers{{{OF},role="decode"}}': "2x60",
    f'baton_scaling_clamped{{{OF},role="prefill"}}': "0x60",
    f'baton_scaling_clamped{{{OF},role="decode"}}': "0x60",
    f"baton_scaling_failed_rounds_total{{{OF}}}": "0x60",
    f'baton_scaling_failed_actions_total{{{OF},kind="relabel"}}': "0x20 1x40",
}
"""A sound cluster under load, minute by minute for an hour: some refusals and misses, a worker that died once, mistakes of clients."""

FAULTS: Mapping[str, tuple[dict[str, str], set[str]]] = {
    "nothing": ({}, set()),
    "routers are gone": ({"up.*router": ""}, {"BatonRouterAbsent"}),
    "a router hangs": ({"up.*router": "1x20 0x40"}, {"BatonRouterAbsent", "BatonTargetDown"}),
    "a worker cannot be scraped": ({"up.*worker": "0x60"}, {"BatonTargetDown"}),
    "no controller": ({"up.*controller": "0x60", "baton_(pool|controller).*": ""}, {"BatonControllerAbsent", "BatonTargetDown"}),
    "the controller hangs": ({"baton_controller_step": "60x60"}, {"BatonControllerNotStepping"}),
    "the controller's rounds fail": ({"baton_controller_failed": "0+1x60"}, {"BatonControllerFailing"}),
    "a decode worker is missing": ({"baton_pool_workers.*decode": "1x60"}, {"BatonWorkersMissing"}),
    "no worker": ({"baton_pool_workers": "0x60"}, {"BatonNoWorkerReady", "BatonWorkersMissing"}),
    "scaled to nothing": ({"baton_pool_(workers|wanted)": "0x60"}, set()),
    "workers die": ({"baton_pool_restarts": "0+1x60"}, {"BatonWorkersRestarting"}),
    "requests are lost": ({"requests_total.*lost": "0+50x60"}, {"BatonRequestsFailing"}),
    "the queue is full": ({"baton_refusals.*waited": "0+100x60"}, {"BatonRefusals"}),
    "promises are refused": ({"objective.*refused": "0+200x60"}, {"BatonGoodputLow"}),
    "first tokens are late": ({"objective.*ttft": "0+200x60"}, {"BatonGoodputLow", "BatonFirstTokensLate"}),
    "tokens are late": ({"objective.*tpot": "0+200x60"}, {"BatonGoodputLow", "BatonTokensLate"}),
    "nobody has room": ({"baton_router_oldest": "16x60"}, {"BatonQueueOld"}),
    "blocks are stranded": ({"stranded": "3x60"}, {"BatonKvStranded"}),
    "decode workers do not come": ({"leased_kv": "600x60"}, {"BatonLeasesPilingUp"}),
    "they come too late": ({"expired": "7x30 8x30"}, {"BatonLeasesExpiring"}),
    "KV does not come": ({"source=.recomputed": "0+100x60"}, {"BatonPromptsRecomputed"}),
    "KV memory is full": ({"free_kv": "20x60"}, {"BatonKvCacheFull"}),
    "preemptions": ({"vllm:num_preemptions": "0+60x60"}, {"BatonPreemptions"}),
    "too little is predicted": ({"bias.*ttft": "-0.8x60"}, {"BatonPredictionsBiased"}),
    "too much is predicted": ({"bias.*ttft": "2x60"}, {"BatonPredictionsBiased"}),
    "decisions are slow": ({"decision.*0.0025": "0+50x60"}, {"BatonDecisionsSlow"}),
    "nobody tells the scaler": ({"scaling_held": "1x60"}, {"BatonScalingHeld"}),
    "limits hold it back": (
        {"scaling_needed.*decode": "5x60", "scaling_clamped.*decode": "1x60", "baton_refusals.*waited": "0+30x60"},
        {"BatonScalingAtLimit"},
    ),
    "limits hold one pool back, and the other has too many": (
        {
            "scaling_needed.*decode": "3x60",
            "scaling_clamped.*decode": "1x60",
            "scaling_target.*prefill": "8x60",
            "baton_refusals.*waited": "0+30x60",
        },
        {"BatonScalingAtLimit"},
    ),
    "limits hold it back, and nobody is refused": (
        {"scaling_needed.*decode": "5x60", "scaling_clamped.*decode": "1x60", "(refusals.*waited|outcome=.refused)": "0x60"},
        set(),
    ),
    "roles are being swapped": (
        {"scaling_needed.*decode": "1x60", "scaling_needed.*prefill": "2x60", "refusals.*waited": "0+30x60"},
        set(),
    ),
    "rounds of the scaler fail": ({"scaling_failed_rounds": "0+1x60"}, {"BatonScalingFailing"}),
    "workers do not let themselves be relabelled": ({"scaling_failed_actions": "0+1x60"}, {"BatonScalingFailing"}),
    "no requests": ({"(requests|refusals|tokens|decision)": "100x60"}, set()),
}
"""What is different then, by a pattern of the series (no values: they are not there), and the alerts that fire for it."""


def fired(series: Mapping[str, str], alerts: set[str], at: str, folder: Path) -> None:
    """Fails unless just these fire at this minute."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(alerts)]
    asked = {"expr": 'group by (alertname) (ALERTS{alertstate="firing"})', "eval_time": at, "exp_samples": expected}
    group = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items() if values],
        "promql_expr_test": [asked],
    }
    test = {"rule_files": [str(RULES_FILE)], "evaluation_interval": "15s", "tests": [group]}
    (folder / "test.yml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", folder / "test.yml")


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_and_nothing_else(fault: str, tmp_path: Path) -> None:
    """After half an hour just the alerts for it fire."""
    changes, alerts = FAULTS[fault]
    series = dict(WELL)
    for pattern, values in changes.items():
        concerned = [name for name in series if re.search(pattern, name)]
        assert concerned, pattern
        series |= dict.fromkeys(concerned, values)
    fired(series, alerts, "31m", tmp_path)


def test_every_alert_has_a_fault_for_which_it_fires() -> None:
    """Above: none that never could."""
    assert set().union(*(alerts for _, alerts in FAULTS.values())) == set(RULES)


def test_a_hiccup_wakes_nobody(tmp_path: Path) -> None:
    """A scrape that fails, a worker that is replaced, a queue for a moment: all of it is over before it is said."""
    hiccup = {
        'up{job="baton",component="router",instance="router-1"}': "1x29 0 1x30",
        f'baton_pool_workers{{{OF},role="decode",state="ready"}}': "2x25 1x4 2x30",
        f'baton_router_oldest_waiting_seconds{{{OF},instance="router-1"}}': "3x29 20 3x30",
        f'baton_worker_stranded_kv_blocks{{{OF},worker="prefill-1",role="prefill"}}': "0x29 4 0x30",
    }
    assert set(hiccup) <= set(WELL)
    for minute in ("30m", "31m", "32m"):
        fired({**WELL, **hiccup}, set(), minute, tmp_path)


def test_what_is_shipped_is_valid() -> None:
    """By promtool's own check, the rules that the configuration names included."""
    assert f"{len(RULES)} rules found" in promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES_FILE)
