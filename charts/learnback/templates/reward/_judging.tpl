{{/* What judges answers beside our own linear model: a judge elsewhere, and neural reward models in the pod. */}}

{{- define "learnback.judge.env" -}}
{{- with .Values.judge.url }}
- name: LEARNBACK_REWARD_JUDGE_URL
  value: {{ . | quote }}
- name: LEARNBACK_REWARD_JUDGE_MODEL
  value: {{ $.Values.judge.model | quote }}
{{- end }}
{{- if .Values.judge.rubric }}
- name: LEARNBACK_REWARD_JUDGE_RUBRIC
  value: /etc/learnback/rubric/rubric.txt
{{- end }}
{{- with include "learnback.judge.key" (dict "root" . "component" "reward") | trim }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The judge's token, as the setting of a process. */}}
{{- define "learnback.judge.key" -}}
{{- with .root.Values.judge.existingSecret }}
- name: LEARNBACK_{{ $.component | upper }}_JUDGE_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.root.Values.judge.existingSecretKey }}
{{- end }}
{{- end -}}

{{/* They load the base model, from where training and serving have it. */}}
{{- define "learnback.neural.env" -}}
{{- if .Values.neuralRewards.enabled }}
{{ include "learnback.inference.cacheEnv" . | trim }}
{{- with .Values.model.hub.endpoint }}
- name: HF_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with include "learnback.hubEnv" . }}
{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "learnback.network.judging" -}}
{{- if .Values.judge.url -}}
{{ include "learnback.network.out" .Values.networkPolicy.judge }}
{{- end }}
{{- if and .Values.neuralRewards.enabled (not .Values.artifacts.url) (ne (include "learnback.modelOnVolume" .) "true") }}
{{ include "learnback.network.web" . }}
{{- end }}
{{- end -}}
