{{/* What an engine of ours needs beyond the process's settings. */}}

{{- define "learnback.inference.image" -}}
{{- $name := ternary "control" .Values.inference.engine (eq .Values.inference.engine "external") -}}
{{- include "learnback.image" (dict "root" . "name" $name) -}}
{{- end -}}

{{- define "learnback.inference.env" -}}
{{- $home := include "learnback.home" . -}}
- name: LEARNBACK_INFERENCE_PUBLIC_NAME
  value: {{ .Values.inference.publicName | quote }}
- name: LEARNBACK_INFERENCE_SPOOL_BYTES
  value: {{ int64 .Values.inference.spoolBytes | quote }}
- name: LEARNBACK_INFERENCE_DRAIN
  value: PT{{ .Values.inference.drain.seconds }}S
{{- if eq .Values.inference.engine "external" }}
- name: LEARNBACK_INFERENCE_ENGINE_URLS
  value: {{ join "," .Values.inference.externalEngineUrls | quote }}
{{- with .Values.inference.externalEngineKeySecret }}
- name: LEARNBACK_INFERENCE_ENGINE_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.inference.externalEngineKeySecretKey }}
{{- end }}
{{- else }}
- name: LEARNBACK_INFERENCE_ENGINE_ARGS
  value: {{ include "learnback.engine.arguments" (dict "values" .Values.inference "device" .Values.inference.engine) | quote }}
{{ include "learnback.modelEnv" . | trim }}
{{- if eq .Values.inference.engine "cpu" }}
# vLLM and Learnback would size it by the node's memory, not by the limit
- name: VLLM_CPU_KVCACHE_SPACE
  value: {{ .Values.inference.cpuKvCacheGiB | quote }}
{{- end }}
{{- end }}
{{- with .Values.inference.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "learnback.inference.mounts" -}}
{{- $home := include "learnback.home" . -}}
- name: spool
  mountPath: {{ $home }}/spool
{{- if ne .Values.inference.engine "external" }}
{{ include "learnback.engine.mounts" . }}
{{- end }}
{{- if .Values.inference.adapterCache.existingClaim }}
- name: adapters
  mountPath: {{ $home }}/cache/adapters
{{- end }}
{{- end -}}

{{- define "learnback.inference.volumes" -}}
# a little more than the process writes, since an eviction would lose all of it
- name: spool
  emptyDir:
    sizeLimit: {{ add (int64 .Values.inference.spoolBytes) 67108864 | quote }}
{{- if ne .Values.inference.engine "external" }}
{{ include "learnback.engine.volumes" (dict "root" . "values" .Values.inference) }}
{{- end }}
{{- with .Values.inference.adapterCache.existingClaim }}
- name: adapters
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end -}}

{{/* Up at once, down slowly and one by one: a replica that comes back loads its model for minutes. */}}
{{- define "learnback.inference.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
  stabilizationWindowSeconds: {{ .Values.inference.autoscaling.cooldownSeconds }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: 60
{{- end -}}
