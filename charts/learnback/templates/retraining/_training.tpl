{{/*
What the retraining pod needs to start Jobs: environment, mounts and volumes, as lists. Nothing where training runs
inside the pod.
*/}}

{{- define "learnback.training.env" -}}
{{- if .Values.training.enabled -}}
- name: LEARNBACK_RETRAINING_JOB_TEMPLATE
  value: /etc/learnback/training/job.json
{{- end -}}
{{- end -}}

{{- define "learnback.training.mounts" -}}
{{- if .Values.training.enabled -}}
- name: job-template
  mountPath: /etc/learnback/training
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "learnback.training.volumes" -}}
{{- if .Values.training.enabled -}}
- name: job-template
  configMap:
    name: {{ include "learnback.fullname" . }}-training
{{- end -}}
{{- end -}}
