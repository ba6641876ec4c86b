"""Serving: the engine, the release as replicas follow it, and the records."""

from __future__ import annotations

from charts.dashboards.panels import Query, Row, dashboard, lines, quantiles, rate

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
            Query('sum by (pod) (vllm:num_requests_running{job="$job"})', "running {{pod}}"),
            Query('sum by (pod) (vllm:num_requests_waiting{job="$job"})', "waiting {{pod}}"),
        ),
        lines(
            "Time to the first token",
            "Queueing and prefill together.",
            "s",
            *quantiles("vllm:time_to_first_token_seconds"),
        ),
        lines(
            "Time between tokens",
            "How fast an answer runs once it began.",
            "s",
            *quantiles("vllm:inter_token_latency_seconds"),
        ),
        lines(
            "Time in the queue",
            "The part of the first token's time that more replicas would save.",
            "s",
            *quantiles("vllm:request_queue_time_seconds"),
        ),
        lines(
            "Tokens",
            "Read and written a second by all replicas.",
            "cps",
            Query('sum(rate(vllm:prompt_tokens_total{job="$job"}[$__rate_interval]))', "prompt"),
            Query(
                'sum(rate(vllm:generation_tokens_total{job="$job"}[$__rate_interval]))',
                "generated",
            ),
        ),
        lines(
            "KV cache in use",
            "Near 100% requests wait or are preempted, however idle the GPU looks.",
            "percentunit",
            Query('max by (pod) (vllm:kv_cache_usage_perc{job="$job"})', "{{pod}}"),
        ),
        lines(
            "Prefix cache hits",
            "Share of prompt tokens that were not computed again. It falls after each switch of "
            "versions, since each adapter has its own cache.",
            "percentunit",
            Query(
                'sum(rate(vllm:prefix_cache_hits_total{job="$job"}[$__rate_interval])) / '
                'sum(rate(vllm:prefix_cache_queries_total{job="$job"}[$__rate_interval]))',
                "hits",
            ),
        ),
        lines(
            "Preemptions",
            "Requests thrown out of a full KV cache and computed again.",
            "cps",
            rate("vllm:num_preemptions_total", "pod"),
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
    "Requests, the engine, the versions that replicas serve, and the records of answers.",
    [REQUESTS, ENGINE, RELEASE, RECORDS],
)
