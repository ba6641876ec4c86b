"""Serving: the engine, the release as replicas follow it, and the records."""

from __future__ import annotations

from charts.dashboards.panels import Query, Row, dashboard, lines, quantiles, rate

OURS = 'job="$job", process="inference"'
"""vLLM's own metrics are those of the reward engine too."""

REQUESTS = Row(
    "Requests",
    [
        lines(
            "Requests by track",
            "Who was answered by the stable version, by a candidate, or by a version they named.",
            "reqps",
            rate("learnback_inference_requests_total", "track"),
            stacked=True,
        ),
        lines(
            "Requests by status",
            "Statuses of the engine's answers.",
            "reqps",
            rate("learnback_inference_requests_total", "status"),
            stacked=True,
        ),
        lines(
            "Refused before the engine",
            "By error code. unavailable and version_unavailable are our fault, the others the "
            "clients'.",
            "reqps",
            rate("learnback_inference_refused_total", "code"),
            stacked=True,
        ),
        lines(
            "Time to the first byte by track",
            "A candidate that is slower than stable is seen here.",
            "s",
            *quantiles("learnback_inference_first_byte_seconds", by="track"),
        ),
        lines(
            "Time of whole answers",
            "From the request's last byte to the answer's last; it grows with the answer's length.",
            "s",
            *quantiles("learnback_inference_duration_seconds"),
        ),
        lines(
            "Broken answers by track",
            "Share of answers that ended in an error of the engine.",
            "percentunit",
            Query(
                'sum by (track) (rate(learnback_inference_ended_total{job="$job", '
                'end="engine_error"}[$__rate_interval])) / sum by (track) '
                '(rate(learnback_inference_ended_total{job="$job"}[$__rate_interval]))',
                "{{track}}",
            ),
        ),
    ],
)
ENGINE = Row(
    "Engine (vLLM in our own pods)",
    [
        lines(
            "Running and waiting",
            "Waiting requests are what replicas are scaled by.",
            "none",
            Query(
                f"sum by (pod) (vllm:num_requests_running{{{OURS}}})",
                "running {{pod}}",
            ),
            Query(
                f"sum by (pod) (vllm:num_requests_waiting{{{OURS}}})",
                "waiting {{pod}}",
            ),
        ),
        lines(
            "Time to the first token",
            "Queueing and prefill together.",
            "s",
            *quantiles("vllm:time_to_first_token_seconds", OURS),
        ),
        lines(
            "Time between tokens",
            "How fast an answer runs once it began.",
            "s",
            *quantiles("vllm:inter_token_latency_seconds", OURS),
        ),
        lines(
            "Time in the queue",
            "The part of the first token's time that more replicas would save.",
            "s",
            *quantiles("vllm:request_queue_time_seconds", OURS),
        ),
        lines(
            "Tokens",
            "Read and written a second by all replicas.",
            "cps",
            Query(
                f"sum(rate(vllm:prompt_tokens_total{{{OURS}}}[$__rate_interval]))",
                "prompt",
            ),
            Query(
                f"sum(rate(vllm:generation_tokens_total{{{OURS}}}[$__rate_interval]))",
                "generated",
            ),
        ),
        lines(
            "KV cache in use",
            "Near 100% requests wait or are preempted, however idle the GPU looks.",
            "percentunit",
            Query(
                f"max by (pod) (vllm:kv_cache_usage_perc{{{OURS}}})",
                "{{pod}}",
            ),
        ),
        lines(
            "Prefix cache hits",
            "Share of prompt tokens that were not computed again. It falls after each switch of "
            "versions, since each adapter has its own cache.",
            "percentunit",
            Query(
                f"sum(rate(vllm:prefix_cache_hits_total{{{OURS}}}[$__rate_interval])) / "
                f"sum(rate(vllm:prefix_cache_queries_total{{{OURS}}}[$__rate_interval]))",
                "hits",
            ),
        ),
        lines(
            "Preemptions",
            "Requests thrown out of a full KV cache and computed again.",
            "cps",
            rate("vllm:num_preemptions_total", "pod", OURS),
        ),
        lines(
            "Memory of the process",
            "Of the API server's process, not the engine's or the GPU's.",
            "bytes",
            Query(
                'max by (pod) (process_resident_memory_bytes{job="$job", process="inference"})',
                "{{pod}}",
            ),
        ),
    ],
)
BESIDE = Row(
    "Beside the answer: a candidate's copies and pairs",
    [
        lines(
            "Copies for a candidate",
            "Requests that the candidate answers too and nobody sees. dropped: too many ran at "
            "once; failed: it broke, or took too long.",
            "reqps",
            rate("learnback_inference_mirrored_total", "result"),
            stacked=True,
        ),
        lines(
            "Answers shown in pairs",
            "By how they ended; each pair has two. Where one failed, the other was shown alone.",
            "reqps",
            rate("learnback_inference_ended_total", "end", 'job="$job", track="compared"'),
            stacked=True,
        ),
        lines(
            "Time of answers in pairs",
            "A pair is shown when the slower one is there.",
            "s",
            *quantiles("learnback_inference_duration_seconds", 'job="$job", track="compared"'),
        ),
    ],
)
PROMPTS = Row(
    "Prompt strategies",
    [
        lines(
            "Examples put before prompts",
            "left out: picked, and too long for the context or the limit.",
            "cps",
            Query(
                'sum(rate(learnback_inference_examples_total{job="$job"}[$__rate_interval]))',
                "shown",
            ),
            Query(
                'sum(rate(learnback_inference_examples_left_out_total{job="$job"}'
                "[$__rate_interval]))",
                "left out",
            ),
        ),
        lines(
            "Requests without their strategy",
            "By the reason for which it, or a part of it, was not applied.",
            "reqps",
            rate("learnback_inference_strategy_skipped_total", "reason"),
            stacked=True,
        ),
        lines(
            "Examples taken back",
            "In the last 24 hours: erased, withdrawn or superseded by the people who gave them.",
            "none",
            Query(
                "max by (pod) "
                '(increase(learnback_inference_examples_taken_back_total{job="$job"}[24h]))',
                "{{pod}}",
            ),
        ),
    ],
)
RELEASE = Row(
    "Release",
    [
        lines(
            "Versions that a replica can serve",
            "stable and candidate as the replica serves them, loaded: kept for those who name it.",
            "none",
            Query(
                'count by (version, track) (learnback_inference_version_info{job="$job"})',
                "{{track}} {{version}}",
            ),
        ),
        lines(
            "Versions named and not served",
            "By replica. More than 0 for minutes: it can't load a version; its log says why.",
            "none",
            Query('max by (pod) (learnback_inference_not_served_versions{job="$job"})', "{{pod}}"),
        ),
        lines(
            "Age of the release as read",
            "Seconds since each replica read the registry. It rises while the ledger is away.",
            "s",
            Query(
                "max by (pod) (time() - "
                'learnback_inference_release_read_timestamp_seconds{job="$job"})',
                "{{pod}}",
            ),
        ),
        lines(
            "Failed loads",
            "Adapters that could not be fetched, verified or loaded.",
            "cps",
            rate("learnback_inference_load_failures_total", "pod"),
        ),
    ],
)
RECORDS = Row(
    "Records",
    [
        lines(
            "Recorded and dropped",
            "Completions that reached the stream, and those lost by reason.",
            "cps",
            Query(
                'sum(rate(learnback_inference_recorder_recorded_total{job="$job"}'
                "[$__rate_interval]))",
                "recorded",
            ),
            rate("learnback_inference_recorder_dropped_total", "reason"),
        ),
        lines(
            "Spool in use",
            "Share of the disk for records that is taken. At 100% records are dropped.",
            "percentunit",
            Query(
                'max by (pod) (learnback_inference_recorder_spool_bytes{job="$job"} / '
                'learnback_inference_recorder_spool_limit_bytes{job="$job"})',
                "{{pod}}",
            ),
        ),
        lines(
            "Torn records on disk",
            "Records that a crash cut, counted when they are read.",
            "cps",
            rate("learnback_inference_spool_unreadable_total", "pod"),
        ),
    ],
)

DASHBOARD = dashboard(
    "serving",
    "serving",
    "Requests, the engine, copies and pairs, the versions that replicas serve, and the records.",
    [REQUESTS, ENGINE, BESIDE, PROMPTS, RELEASE, RECORDS],
)
