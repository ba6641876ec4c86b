"""The first look: does it answer, does it listen, does it learn."""

from __future__ import annotations

from charts.dashboards.panels import Query, Row, dashboard, lines, quantiles, rate, stat

RED_AT_ZERO = [("red", 0.0), ("green", 1.0)]
READY = (
    'sum(min by (pod) (learnback_health_check_passed{{job="$job", process="{0}"}})) or vector(0)'
)

NOW = Row(
    "Now",
    [
        stat(
            "Inference replicas ready",
            "Replicas that pass every readiness check. At 0 nobody gets an answer.",
            "none",
            READY.format("inference"),
            thresholds=RED_AT_ZERO,
        ),
        stat(
            "Feedback replicas ready",
            "Replicas that pass every readiness check. At 0 signals are refused.",
            "none",
            READY.format("feedback"),
            thresholds=RED_AT_ZERO,
        ),
        stat(
            "Stable version",
            "The version that answers everybody, as the replicas serve it. Two for longer than a "
            "rollout: one replica is behind.",
            "none",
            'count by (version) (learnback_inference_version_info{job="$job", track="stable"})',
            legend="{{version}}",
            text="name",
            width=8,
        ),
        stat(
            "Dead letters",
            "Messages that failed in every attempt and wait for somebody.",
            "none",
            'sum(max by (stream, group) (learnback_feedback_stream_dead_messages{job="$job"}))',
            thresholds=[("red", 1.0)],
        ),
        stat(
            "Records dropped in 24 h",
            "Answers that no record will ever show. Anything but 0 is a loss.",
            "none",
            'sum(increase(learnback_inference_recorder_dropped_total{job="$job"}[24h]))',
            thresholds=[("red", 1.0)],
        ),
    ],
)
PEOPLE = Row(
    "What people notice",
    [
        lines(
            "Answers",
            "How requests to the engine ended. engine_error also counts streams that broke after "
            "a 200.",
            "reqps",
            rate("learnback_inference_ended_total", "end"),
            stacked=True,
        ),
        lines(
            "Time to the first byte",
            "From the request's last byte to the answer's first; without streaming that is the "
            "whole answer.",
            "s",
            *quantiles("learnback_inference_first_byte_seconds"),
        ),
        lines(
            "Requests to feedback",
            "By status. 5xx are our fault, 4xx the clients'.",
            "reqps",
            rate("learnback_http_requests_total", "status", 'job="$job", process="feedback"'),
            stacked=True,
        ),
    ],
)
LEARNING = Row(
    "What it learns",
    [
        lines(
            "Signals received",
            "What people said, by kind.",
            "cps",
            rate("learnback_feedback_received_total", "kind"),
            stacked=True,
        ),
        lines(
            "Signals waiting for a run",
            "A run starts when enough of them are usable; while one is under way they wait.",
            "none",
            Query('max(learnback_retraining_waiting_signals{job="$job"})', "waiting"),
            Query('max(learnback_retraining_active_runs{job="$job"})', "active runs"),
        ),
        lines(
            "Win rate of the last candidate",
            "How often its answers were judged better than the stable version's, with bounds. "
            "Above 0.5 with its lower bound: better.",
            "percentunit",
            Query('max by (bound) (learnback_release_win_rate_ratio{job="$job"})', "{{bound}}"),
        ),
    ],
)
BEHIND = Row(
    "What falls behind",
    [
        lines(
            "Unread messages",
            "Per stream and group. Short rises are normal; a line that only rises is not.",
            "none",
            Query(
                'max by (stream, group) (learnback_feedback_stream_lag_messages{job="$job"})',
                "{{stream}} / {{group}}",
            ),
        ),
        lines(
            "Records on disk",
            "Completions that wait in spools, since Redis can't be reached. 0 is normal.",
            "bytes",
            Query('sum by (pod) (learnback_inference_recorder_spool_bytes{job="$job"})', "{{pod}}"),
        ),
        lines(
            "Readiness checks that fail",
            "By process and check; 0 is normal, and none is drawn where nothing runs.",
            "none",
            Query(
                "count by (process, check) "
                '(learnback_health_check_passed{job="$job"} == 0) or vector(0)',
                "{{process}} {{check}}",
            ),
        ),
    ],
)

DASHBOARD = dashboard(
    "overview",
    "overview",
    "Does it answer, does it listen, does it learn. Start here.",
    [NOW, PEOPLE, LEARNING, BEHIND],
)
