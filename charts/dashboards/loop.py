"""The loop: from a signal to the ledger, over the streams, to a score."""

from __future__ import annotations

from charts.dashboards.panels import Query, Row, dashboard, lines, quantiles, rate, stat

ENGINES = 'job="$job", process="reward-engine"'

FEEDBACK = Row(
    "Signals",
    [
        lines(
            "Received by status",
            "accepted: the completion is known; pending_target: it is waited for; recorded: kept, "
            "and not trained on yet.",
            "cps",
            rate("learnback_feedback_received_total", "status"),
            stacked=True,
        ),
        lines(
            "Refused and repeated",
            "Refusals by error code; repeats are recognised by their idempotency key and count "
            "once.",
            "cps",
            rate("learnback_feedback_refused_total", "code"),
            Query(
                'sum(rate(learnback_feedback_replayed_total{job="$job"}[$__rate_interval]))',
                "repeated",
            ),
        ),
        lines(
            "Joined and expired",
            "Waiting signals whose completion came, and those whose never did.",
            "cps",
            rate("learnback_feedback_joined_total", "status"),
            Query(
                'sum(rate(learnback_feedback_expired_total{job="$job"}[$__rate_interval]))',
                "expired",
            ),
        ),
        lines(
            "Signals in the ledger",
            "What became of everything that people said.",
            "none",
            Query('max by (status) (learnback_feedback_ledger_signals{job="$job"})', "{{status}}"),
            stacked=True,
        ),
        lines(
            "Time of the feedback API",
            "By route, from the headers to the end of the answer.",
            "s",
            *quantiles("learnback_http_request_seconds", 'job="$job", process="feedback"', "route")[
                1:2
            ],
        ),
        lines(
            "Time of a commit",
            "One transaction of the ledger, shared by the signals that came meanwhile.",
            "s",
            *quantiles("learnback_feedback_commit_seconds"),
        ),
        lines(
            "Signals in a commit",
            "Mean; it grows with the load, which keeps commits few.",
            "none",
            Query(
                'sum(rate(learnback_feedback_commit_signals_sum{job="$job"}[$__rate_interval])) / '
                'sum(rate(learnback_feedback_commit_signals_count{job="$job"}'
                "[$__rate_interval]))",
                "signals",
            ),
        ),
        lines(
            "Recorded and relayed",
            "What came into the ledger by stream, and the signals that went on to theirs.",
            "cps",
            rate("learnback_feedback_recorded_total", "stream"),
            Query(
                'sum(rate(learnback_feedback_relayed_total{job="$job"}[$__rate_interval]))',
                "relayed",
            ),
        ),
        lines(
            "Outbox",
            "Messages promised to a stream and not on it yet. 0 is normal.",
            "none",
            Query('max(learnback_feedback_outbox_messages{job="$job"})', "messages"),
        ),
        lines(
            "Oldest message in the outbox",
            "Seconds are normal, minutes mean that Redis or the relay is away.",
            "s",
            Query('max(learnback_feedback_outbox_age_seconds{job="$job"})', "age"),
        ),
    ],
)
STREAMS = Row(
    "Streams",
    [
        lines(
            "Unread",
            "Entries that a group has not read.",
            "none",
            Query(
                'max by (stream, group) (learnback_feedback_stream_lag_messages{job="$job"})',
                "{{stream}} / {{group}}",
            ),
        ),
        lines(
            "Read and not done",
            "Entries in a worker's hands. They come back if it dies.",
            "none",
            Query(
                'max by (stream, group) (learnback_feedback_stream_pending_messages{job="$job"})',
                "{{stream}} / {{group}}",
            ),
        ),
        lines(
            "Dead letters",
            "`learnback streams dead STREAM` shows them, `replay` sends them again.",
            "none",
            Query(
                'max by (stream, group) (learnback_feedback_stream_dead_messages{job="$job"})',
                "{{stream}} / {{group}}",
            ),
        ),
        lines(
            "Published and handled",
            "Messages a second.",
            "cps",
            Query(
                "sum by (stream) "
                '(rate(learnback_bus_published_total{job="$job"}[$__rate_interval]))',
                "{{stream}} published",
            ),
            Query(
                "sum by (stream, group) "
                '(rate(learnback_bus_handled_total{job="$job"}[$__rate_interval]))',
                "{{stream}} / {{group}}",
            ),
        ),
        lines(
            "Failures, redeliveries, burials",
            "Handlers that raised, messages taken over from a worker, new dead letters.",
            "cps",
            Query(
                'sum(rate(learnback_bus_failures_total{job="$job"}[$__rate_interval]))', "failed"
            ),
            Query(
                'sum(rate(learnback_bus_redelivered_total{job="$job"}[$__rate_interval]))',
                "redelivered",
            ),
            Query(
                'sum(rate(learnback_bus_dead_letters_total{job="$job"}[$__rate_interval]))',
                "buried",
            ),
        ),
        lines(
            "Time of a batch",
            "95th percentile by group. Near 30 s a slow worker is taken for a dead one.",
            "s",
            *quantiles("learnback_bus_batch_seconds", by="group")[1:2],
        ),
        lines(
            "Memory of Redis",
            "At its limit it refuses to write; without a limit the second line is 0.",
            "bytes",
            Query('max(learnback_feedback_redis_used_bytes{job="$job"})', "used"),
            Query('max(learnback_feedback_redis_limit_bytes{job="$job"})', "limit"),
        ),
        lines(
            "Volumes in use",
            "Of the namespace of this installation, as the kubelet sees them.",
            "percentunit",
            Query(
                "max by (persistentvolumeclaim) ("
                "kubelet_volume_stats_used_bytes / kubelet_volume_stats_capacity_bytes "
                'and on (namespace) group by (namespace) (up{job="$job"}))',
                "{{persistentvolumeclaim}}",
            ),
        ),
    ],
)
REWARD = Row(
    "Scores",
    [
        stat(
            "Reward model in use",
            "1 once a learned reward model scores; before that only the rules do.",
            "none",
            'max(learnback_reward_model_ready{job="$job"})',
        ),
        stat(
            "Reward model refused",
            "Replicas that can't use the one that the registry names, and score with an older one.",
            "none",
            'sum(learnback_reward_model_refused{job="$job"})',
            thresholds=[("red", 1.0)],
        ),
        stat(
            "Reward models taken over in 24 h",
            "Each training run brings one.",
            "none",
            'sum(increase(learnback_reward_model_swaps_total{job="$job"}[24h]))',
        ),
        lines(
            "Verdicts",
            "score: judged; unjudged: cut off, or tool calls alone; error: the scorer broke.",
            "cps",
            rate("learnback_reward_scores_total", "scorer, outcome"),
        ),
        lines(
            "Mean score by track",
            "Each scorer has a scale of its own: compare tracks, never scorers.",
            "none",
            Query(
                "sum by (scorer, track) "
                '(rate(learnback_reward_score_points_sum{job="$job"}[$__rate_interval])) / '
                "sum by (scorer, track) "
                '(rate(learnback_reward_score_points_count{job="$job"}[$__rate_interval]))',
                "{{scorer}} {{track}}",
            ),
        ),
        lines(
            "Nothing to score",
            "Completions without a text on record, by reason.",
            "cps",
            rate("learnback_reward_skipped_completions_total", "reason"),
        ),
        lines(
            "Time of a batch of scores",
            "95th percentile by scorer; a neural reward model and a judge take longest.",
            "s",
            *quantiles("learnback_reward_scoring_seconds", by="scorer")[1:2],
        ),
        lines(
            "Old answers scored anew",
            "For datasets, evaluations and operators who asked (`learnback rewards rescorings`).",
            "cps",
            Query(
                'sum(rate(learnback_reward_rescored_total{job="$job"}[$__rate_interval]))',
                "scored",
            ),
        ),
        lines(
            "Pairs that the judge compared",
            "position_first and position_second: it preferred a place, in both orders, which says "
            "nothing. Many of them: another judge or rubric is needed.",
            "cps",
            rate("learnback_reward_judge_comparisons_total", "outcome"),
            stacked=True,
        ),
    ],
)
ENGINE = Row(
    "Reward engine (rewardEngine of the chart)",
    [
        lines(
            "Texts running and waiting",
            "Waiting for minutes while streams fall behind: it is the bottleneck.",
            "none",
            Query(f"sum(vllm:num_requests_running{{{ENGINES}}})", "running"),
            Query(f"sum(vllm:num_requests_waiting{{{ENGINES}}})", "waiting"),
        ),
        lines(
            "Time of a text",
            "From its arrival in the engine to its score.",
            "s",
            *quantiles("vllm:e2e_request_latency_seconds", ENGINES),
        ),
        lines(
            "Tokens judged",
            "Of prompts and answers, a second.",
            "cps",
            Query(f"sum(rate(vllm:prompt_tokens_total{{{ENGINES}}}[$__rate_interval]))", "tokens"),
        ),
    ],
)

DASHBOARD = dashboard(
    "loop",
    "the loop",
    "Signals, streams and scores: where something waits, fails or is given up.",
    [FEEDBACK, STREAMS, REWARD, ENGINE],
)
