{{/* What an engine of ours needs beyond the process's settings. */}}

{{- define "learnback.inference.image" -}}
{{- $name := ternary "control" .Values.inference.engine (eq .Values.inference.engine "external") -}}
{{- include "learnback.image" (dict "root" . "name" $name) -}}
{{- end -}}

{{/* Resources, with the GPUs in requests and limits alike, as Kubernetes asks for. */}}
{{- define "learnback.inference.resources" -}}
{{- $resources := deepCopy .Values.inference.resources -}}
{{- if eq .Values.inference.engine "gpu" -}}
{{- $gpus := dict .Values.inference.gpuResource (.Values.inference.gpus | toString) -}}
{{- $_ := set $resources "limits" (merge (dict) $gpus ($resources.limits | default dict)) -}}
{{- $_ := set $resources "requests" (merge (dict) $gpus ($resources.requests | default dict)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "learnback.inference.engineArgs" -}}
{{- $arguments := .Values.inference.engineArgs -}}
{{- if and (eq .Values.inference.engine "gpu") (gt (int .Values.inference.gpus) 1) (not (has "--tensor-parallel-size" $arguments)) -}}
{{- $arguments = concat (list "--tensor-parallel-size" (.Values.inference.gpus | toString)) $arguments -}}
{{- end -}}
{{- toJson $arguments -}}
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
  value: {{ include "learnback.inference.engineArgs" . | quote }}
{{ include "learnback.inference.cacheEnv" . | trim }}
{{- if eq .Values.inference.engine "cpu" }}
# vLLM and Learnback would size it by the node's memory, not by the limit
- name: VLLM_CPU_KVCACHE_SPACE
  value: {{ .Values.inference.cpuKvCacheGiB | quote }}
{{- end }}
{{- with .Values.model.hub.endpoint }}
- name: HF_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with include "learnback.hubEnv" . }}
{{ . }}
{{- end }}
{{- end }}
{{- with .Values.inference.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* All that vLLM, Triton, torch and their libraries write, since the root is read-only. */}}
{{- define "learnback.inference.cacheEnv" -}}
{{- $cache := printf "%s/cache" (include "learnback.home" .) -}}
{{- range $name, $folder := dict "HF_HOME" "huggingface" "XDG_CACHE_HOME" "xdg" "VLLM_CACHE_ROOT" "vllm" "VLLM_CONFIG_ROOT" "vllm-config" "TRITON_CACHE_DIR" "triton" "TRITON_HOME" "triton-home" "TORCHINDUCTOR_CACHE_DIR" "inductor" "TORCH_EXTENSIONS_DIR" "torch-extensions" "TORCH_HOME" "torch" "NUMBA_CACHE_DIR" "numba" "CUDA_CACHE_PATH" "cuda" "FLASHINFER_WORKSPACE_BASE" "flashinfer" "OUTLINES_CACHE_DIR" "outlines" -}}
- name: {{ $name }}
  value: {{ $cache }}/{{ $folder }}
{{ end -}}
{{- end -}}

{{- define "learnback.inference.mounts" -}}
{{- $home := include "learnback.home" . -}}
- name: spool
  mountPath: {{ $home }}/spool
- name: cache
  mountPath: {{ $home }}/cache
{{- if ne .Values.inference.engine "external" }}
- name: shm
  mountPath: /dev/shm
{{- if .Values.model.cache.enabled }}
- name: model-cache
  mountPath: {{ $home }}/cache/huggingface
{{- end }}
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
# a volume of its own: where one is mounted deeper, the container runtime makes the folder between, as root
- name: cache
  emptyDir:
    sizeLimit: {{ .Values.inference.cacheSize }}
{{- if ne .Values.inference.engine "external" }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.inference.shmSize }}
{{- if .Values.model.cache.enabled }}
- name: model-cache
  persistentVolumeClaim:
    claimName: {{ .Values.model.cache.existingClaim | default (printf "%s-model-cache" (include "learnback.fullname" .)) }}
{{- end }}
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
