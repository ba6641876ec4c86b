{{/*
The group of a file of alerts/ for this release, with the severity and the labels that the values give it.
*/}}
{{- define "learnback.alert" -}}
{{- $values := .root.Values.monitoring.prometheusRule -}}
{{- $group := first (include "learnback.alerts" . | fromYaml).groups -}}
{{- range $rule := $group.rules -}}
{{- $severity := get $values.severities $rule.alert | default $rule.labels.severity -}}
{{- $_ := set $rule "labels" (merge (dict "severity" $severity) $values.alertLabels $rule.labels) -}}
{{- end -}}
{{- toYaml $group -}}
{{- end -}}

{{/*
The rules of a file of alerts/ for this release. The files are whole without Helm, so that promtool reads and tests
them; they say `learnback` in the namespace `learnback`, as after `helm install learnback -n learnback`.
*/}}
{{- define "learnback.alerts" -}}
{{- $name := include "learnback.fullname" .root -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $runbooks := .root.Values.monitoring.prometheusRule.runbookBaseUrl | default "docs/runbooks" | trimSuffix "/" -}}
{{- .root.Files.Get .path
  | replace "job=\"learnback/learnback\"" (printf "job=\"%s/%s\"" $namespace $name)
  | replace "namespace=\"learnback\"" (printf "namespace=%q" $namespace)
  | replace "(data-)?learnback-" (printf "(data-)?%s-" $name)
  | replace "docs/runbooks/" (printf "%s/" $runbooks) -}}
{{- end -}}
