{{/*
What the retraining pod needs to start Jobs, or to train itself: environment, mounts and volumes, as lists.
*/}}

{{- define "learnback.training.env" -}}
{{- if .Values.training.enabled -}}
- name: LEARNBACK_RETRAINING_JOB_TEMPLATE
  value: /etc/learnback/training/job.json
{{- else -}}
{{- if not (hasKey .Values.retraining.settings "threads") }}
# else half of the node's cores
- name: LEARNBACK_RETRAINING_THREADS
  valueFrom:
    resourceFieldRef:
      containerName: retraining
      resource: requests.cpu
{{- end }}
{{ include "learnback.training.runEnv" . }}
{{- end -}}
{{- end -}}

{{- define "learnback.training.mounts" -}}
{{- if .Values.training.enabled -}}
- name: job-template
  mountPath: /etc/learnback/training
  readOnly: true
{{- else -}}
{{ include "learnback.training.runMounts" . }}
{{- end -}}
{{- end -}}

{{- define "learnback.training.volumes" -}}
{{- if .Values.training.enabled -}}
- name: job-template
  configMap:
    name: {{ include "learnback.fullname" . }}-training
{{- else -}}
{{ include "learnback.training.runVolumes" . }}
{{- end -}}
{{- end -}}
