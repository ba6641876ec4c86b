"""Training and release: runs, evaluations, verdicts and moves of the stable alias."""

from __future__ import annotations

from charts.dashboards.panels import Query, Row, dashboard, lines, quantiles, rate, stat

RUN = Row(
    "The run at hand",
    [
        stat(
            "Runs under way",
            "0 or 1.",
            "none",
            'max(learnback_retraining_active_runs{job="$job"})',
        ),
        stat(
            "Steps done",
            "Share of the run's optimiser steps.",
            "percentunit",
            'max(learnback_retraining_run_step_count{job="$job"}) / '
            '(max(learnback_retraining_run_planned_step_count{job="$job"}) > 0)',
        ),
        stat(
            "Time left",
            "An estimate from the steps so far.",
            "s",
            'max(learnback_retraining_run_left_seconds{job="$job"})',
        ),
        stat(
            "Signals waiting",
            "Preferences and corrections that no run has taken.",
            "none",
            'max(learnback_retraining_waiting_signals{job="$job"})',
        ),
        stat(
            "Taken back",
            "Signals of the run that were withdrawn or superseded since it took them: the next "
            "version is without them.",
            "none",
            'max(learnback_retraining_run_taken_back_signals{job="$job"})',
        ),
        lines(
            "Loss",
            "Of the last step. It may rise; not a number means that the run is broken.",
            "none",
            Query('max(learnback_retraining_run_loss_nats{job="$job"})', "loss"),
            width=12,
        ),
        lines(
            "Steps",
            "A flat line under the planned one for long: the run stands still.",
            "none",
            Query('max(learnback_retraining_run_step_count{job="$job"})', "done"),
            Query('max(learnback_retraining_run_planned_step_count{job="$job"})', "planned"),
            width=12,
        ),
        lines(
            "What the method watches",
            "Of the last step: rewards, accuracies, distances from the reference, lengths. Units "
            "differ: pick lines in the legend.",
            "none",
            Query(
                'max by (method, metric) (learnback_retraining_run_measured_value{job="$job"})',
                "{{method}} {{metric}}",
            ),
            width=24,
        ),
    ],
)
RUNS = Row(
    "Runs",
    [
        lines(
            "Runs that ended",
            "In the last 24 hours, by how.",
            "none",
            Query(
                'sum by (state) (increase(learnback_retraining_runs_total{job="$job"}[24h]))',
                "{{state}}",
            ),
        ),
        lines(
            "Jobs started again",
            "In the last 24 hours: jobs that broke off and went on from their checkpoint.",
            "none",
            Query('sum(increase(learnback_retraining_retries_total{job="$job"}[24h]))', "retries"),
        ),
        lines(
            "Signals settled",
            "In the last 24 hours, by what became of them.",
            "none",
            Query(
                "sum by (status) "
                '(increase(learnback_retraining_settled_signals_total{job="$job"}[24h]))',
                "{{status}}",
            ),
            stacked=True,
        ),
    ],
)
GATE = Row(
    "The gate",
    [
        lines(
            "Evaluation under way",
            "Share of it that is done; 0 or 1 while there is none.",
            "percentunit",
            Query('max(learnback_release_evaluation_progress_ratio{job="$job"})', "done"),
        ),
        lines(
            "Evaluation's time left",
            "An estimate from the answers so far.",
            "s",
            Query('max(learnback_release_evaluation_eta_seconds{job="$job"})', "left"),
        ),
        lines(
            "Time of an evaluation",
            "From its start to the verdict.",
            "s",
            *quantiles("learnback_release_evaluation_seconds"),
        ),
        lines(
            "Answers for evaluations",
            "failed: the engine gave none; cached: asked before.",
            "cps",
            rate("learnback_release_answers_total", "side, source"),
        ),
        lines(
            "Win rate of the last evaluation",
            "With its bounds. The gate passes only what is better beyond doubt.",
            "percentunit",
            Query('max by (bound) (learnback_release_win_rate_ratio{job="$job"})', "{{bound}}"),
        ),
        lines(
            "Verdicts",
            "In the last 7 days.",
            "none",
            Query(
                'sum by (verdict) (increase(learnback_release_verdicts_total{job="$job"}[7d]))',
                "{{verdict}}",
            ),
        ),
        lines(
            "Moves of the stable alias",
            "In the last 7 days, by whom: the gate, an operator, or a rollback.",
            "none",
            Query(
                'sum by (by) (increase(learnback_release_promotions_total{job="$job"}[7d]))',
                "{{by}}",
            ),
        ),
        lines(
            "Failed looks",
            "Rounds of the release process that ended in an error and are tried again.",
            "cps",
            Query(
                'sum(rate(learnback_release_failures_total{job="$job"}[$__rate_interval]))',
                "failures",
            ),
        ),
        lines(
            "Release as served",
            "The revision of each alias by replica; lines that stay apart: a replica is behind.",
            "none",
            Query(
                'max by (alias, pod) (learnback_inference_release_revision{job="$job"})',
                "{{alias}} {{pod}}",
            ),
        ),
    ],
)
CANARY = Row(
    "Canary and traffic",
    [
        stat(
            "Controllers that act",
            "1 of them holds the lease. 0 for minutes: nobody promotes or rolls back.",
            "none",
            'sum(learnback_release_leading{job="$job"})',
            thresholds=[("red", 0.0), ("green", 1.0), ("red", 2.0)],
        ),
        stat(
            "Replicas that are waited for",
            "Live ones that have not loaded the version that is to get its first people.",
            "none",
            'max(learnback_release_waiting_replicas{job="$job"})',
        ),
        lines(
            "Looks at canaries",
            "In the last 24 hours, by what they decided.",
            "none",
            Query(
                'sum by (verdict) (increase(learnback_release_looks_total{job="$job"}[24h]))',
                "{{verdict}}",
            ),
        ),
        lines(
            "Objects of the operator",
            "ModelReleases at its last look, and what it handed on and failed at in the last 24 "
            "hours. Nothing without the operator.",
            "none",
            Query('max(learnback_operator_objects{job="$job"})', "objects"),
            Query('sum(increase(learnback_operator_asked_total{job="$job"}[24h]))', "canaries"),
            Query(
                'sum by (answer) (increase(learnback_operator_decided_total{job="$job"}[24h]))',
                "{{answer}}",
            ),
            Query('sum(increase(learnback_operator_failures_total{job="$job"}[24h]))', "failures"),
        ),
    ],
)
FILES = Row(
    "Files of old versions",
    [
        lines(
            "Collected",
            "In the last 24 hours: versions marked, files removed, uploads that never ended.",
            "none",
            Query(
                'sum by (what) (increase(learnback_release_collected_total{job="$job"}[24h]))',
                "{{what}}",
            ),
            width=12,
        ),
        lines(
            "Failed collections",
            "In the last 24 hours; the next pass tries again.",
            "none",
            Query(
                'sum(increase(learnback_release_collection_failures_total{job="$job"}[24h]))',
                "failures",
            ),
            width=12,
        ),
    ],
)

DASHBOARD = dashboard(
    "training",
    "training and release",
    "The run at hand, past runs, evaluations, verdicts, and who moved traffic.",
    [RUN, RUNS, GATE, CANARY, FILES],
)
