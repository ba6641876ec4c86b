"""The Grafana dashboards: `python -m charts.dashboards` writes `learnback/dashboards/*.json`.

Here: panels and queries, one module a dashboard. Not here: alerts, which are plain files of the
chart.
"""
