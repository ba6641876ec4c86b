{{/*
What a run needs beside its folder, in the pod of a Job and in that of the retraining process alike: lists of environment
variables, mounts and volumes.
*/}}

{{- define "learnback.training.runEnv" -}}
{{ include "learnback.modelEnv" . | trim }}
{{- with .Values.training.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "learnback.training.runMounts" -}}
- name: shm
  mountPath: /dev/shm
{{- if eq (include "learnback.training.sharesCache" .) "true" }}
- name: model-cache
  mountPath: {{ include "learnback.home" . }}/cache/huggingface
{{- end }}
{{- end -}}

{{- define "learnback.training.runVolumes" -}}
# the processes of one node talk through it; it counts as memory
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.training.shmSize }}
{{- if eq (include "learnback.training.sharesCache" .) "true" }}
- name: model-cache
  persistentVolumeClaim:
    claimName: {{ include "learnback.modelCacheClaim" . }}
{{- end }}
{{- end -}}

{{/* "true" where inference's volume with the model can be mounted beside a run: on any node, or since both are on one. */}}
{{- define "learnback.training.sharesCache" -}}
{{- $component := ternary "training" "retraining" .Values.training.enabled -}}
{{- $together := has "inference" (include "learnback.neighbours" (dict "root" . "component" $component) | fromJsonArray) -}}
{{- and .Values.model.cache.enabled (or $together (has "ReadWriteMany" .Values.model.cache.accessModes)) -}}
{{- end -}}
