{{/* What judges answers beside our own linear model: a judge elsewhere, and neural reward models, in the pod or in an
engine. */}}

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
{{- with .Values.judge.existingSecret }}
- name: LEARNBACK_REWARD_JUDGE_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.judge.existingSecretKey }}
{{- end }}
{{- end -}}

{{/* In the pod they load the base model, from where training and serving have it. */}}
{{- define "learnback.neural.env" -}}
{{- if .Values.neuralRewards.enabled }}
{{ include "learnback.modelEnv" . | trim }}
{{- end }}
{{- if .Values.rewardEngine.enabled }}
- name: LEARNBACK_REWARD_ENGINE_URL
  value: http://{{ include "learnback.fullname" . }}-reward-engine:{{ include "learnback.port" (dict "component" "reward-engine") }}
{{ include "learnback.rewardEngine.key" . }}
{{- end }}
{{- end -}}

{{/* The bearer token of the reward engine, which it asks for and which reward and release send. */}}
{{- define "learnback.rewardEngine.key" -}}
- name: LEARNBACK_REWARD_ENGINE_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "learnback.rewardEngine.secretName" . }}
      key: {{ .Values.rewardEngine.existingSecretKey }}
{{- end -}}

{{- define "learnback.rewardEngine.secretName" -}}
{{- .Values.rewardEngine.existingSecret | default (printf "%s-reward-engine" (include "learnback.fullname" .)) -}}
{{- end -}}

{{/* Where reward and release put reward models for the engine, which reads them under the same paths. "components": of which
of the two. */}}
{{- define "learnback.neural.mounts" -}}
{{- if .root.Values.rewardEngine.enabled }}
{{- $paths := dict "reward" "cache/reward" "release" "release/judges" }}
{{- range .components }}
- name: reward-models
  mountPath: {{ include "learnback.home" $.root }}/{{ get $paths . }}
  subPath: {{ . }}
  {{- if $.readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "learnback.neural.volumes" -}}
{{- if .Values.rewardEngine.enabled }}
- name: reward-models
  persistentVolumeClaim:
    claimName: {{ include "learnback.rewardModelsClaim" . }}
{{- end }}
{{- end -}}

{{/* Egress rules of who judges; "judge": the URL of the language model that it asks, if it asks one. */}}
{{- define "learnback.network.judging" -}}
{{- $values := .root.Values -}}
{{- with .judge -}}
{{ include "learnback.network.out" (dict "urls" (list .) "to" $values.networkPolicy.judge.to "ports" $values.networkPolicy.judge.ports) }}
{{- end }}
{{- if and $values.neuralRewards.enabled (not $values.artifacts.url) (ne (include "learnback.modelOnVolume" .root) "true") }}
{{ include "learnback.network.web" .root }}
{{- end }}
{{- if $values.rewardEngine.enabled }}
{{ include "learnback.network.to" (dict "root" .root "components" (list "reward-engine") "port" 8010) }}
{{- end }}
{{- end -}}
