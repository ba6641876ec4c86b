{{/*
What the retraining pod needs to start Jobs: environment, mounts and volumes, as lists. Nothing where training runs
inside the pod.
*/}}

{{- define "learnback.training.env" -}}{{- end -}}

{{- define "learnback.training.mounts" -}}{{- end -}}

{{- define "learnback.training.volumes" -}}{{- end -}}
