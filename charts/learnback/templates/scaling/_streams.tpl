{{/*
KEDA triggers for a consumer group: what it has not read, and what it has read and not done. Two triggers a stream, since
KEDA takes one of the two counts in each. "streams" are names in services/learnback/contracts/streams.py.
*/}}
{{- define "learnback.scaling.streams" -}}
{{- $root := .root -}}
{{- $group := .group -}}
{{- $scaling := .scaling -}}
{{- range $stream := .streams }}
{{- range $count, $target := dict "lagCount" $scaling.lag "pendingEntriesCount" $scaling.pending }}
- type: redis-streams
  metadata:
    address: {{ include "learnback.scaling.redisAddress" $root | quote }}
    enableTLS: {{ and (not $root.Values.valkey.enabled) $root.Values.externalRedis.tls | quote }}
    databaseIndex: {{ ternary 0 $root.Values.externalRedis.databaseIndex $root.Values.valkey.enabled | quote }}
    stream: learnback:{{ $stream }}
    consumerGroup: {{ $group }}
    {{ $count }}: {{ $target | quote }}
  {{- if eq (include "learnback.scaling.authenticated" $root) "true" }}
  authenticationRef:
    name: {{ include "learnback.fullname" $root }}-redis
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* KEDA runs in another namespace. */}}
{{- define "learnback.scaling.redisAddress" -}}
{{- if .Values.valkey.enabled -}}
{{ include "learnback.fullname" . }}-valkey.{{ .Release.Namespace }}:6379
{{- else -}}
{{ .Values.externalRedis.address }}
{{- end -}}
{{- end -}}

{{- define "learnback.scaling.authenticated" -}}
{{- or .Values.valkey.enabled (ne .Values.externalRedis.passwordSecret "") -}}
{{- end -}}
