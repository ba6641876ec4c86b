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
