{{/*
What every vLLM of ours needs, in the pods of inference and of the reward engine. Arguments: "values", the component's block
of values, and "device", cpu or gpu.
*/}}

{{/* Resources, with the GPUs in requests and limits alike, as Kubernetes asks for. */}}
{{- define "learnback.engine.resources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- if eq .device "gpu" -}}
{{- $gpus := dict .values.gpuResource (.values.gpus | toString) -}}
{{- $_ := set $resources "limits" (merge (dict) $gpus ($resources.limits | default dict)) -}}
{{- $_ := set $resources "requests" (merge (dict) $gpus ($resources.requests | default dict)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* More arguments for vLLM, as a list in JSON. */}}
{{- define "learnback.engine.arguments" -}}
{{- $arguments := .values.engineArgs -}}
{{- if and (eq .device "gpu") (gt (int .values.gpus) 1) (not (has "--tensor-parallel-size" $arguments)) -}}
{{- $arguments = concat (list "--tensor-parallel-size" (.values.gpus | toString)) $arguments -}}
{{- end -}}
{{- toJson $arguments -}}
{{- end -}}

{{- define "learnback.engine.mounts" -}}
- name: shm
  mountPath: /dev/shm
{{- if .Values.model.cache.enabled }}
- name: model-cache
  mountPath: {{ include "learnback.home" . }}/cache/huggingface
{{- end }}
{{- end -}}

{{- define "learnback.engine.volumes" -}}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .values.shmSize }}
{{- if .root.Values.model.cache.enabled }}
- name: model-cache
  persistentVolumeClaim:
    claimName: {{ include "learnback.modelCacheClaim" .root }}
{{- end }}
{{- end -}}
