{{/*
Names, labels, and what every pod of ours has in common.
Arguments are dicts: "root" is the chart's root context ($), "component" one of inference, feedback,
reward, reward-engine, retraining, release, valkey, migrate, training, operator, test.
*/}}

{{- define "learnback.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters, so that the longest suffix and what Kubernetes adds still fit in 63. */}}
{{- define "learnback.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "learnback.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a selector matches; it never changes, since selectors can't. */}}
{{- define "learnback.selectorLabels" -}}
app.kubernetes.io/name: {{ include "learnback.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "learnback.labels" -}}
{{ include "learnback.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: learnback
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* retraining and operator talk to the Kubernetes API, so each has an account of its own. */}}
{{- define "learnback.serviceAccountName" -}}
{{- $fullname := include "learnback.fullname" .root -}}
{{- if has .component (list "retraining" "operator") -}}
{{- printf "%s-%s" $fullname .component -}}
{{- else -}}
{{- $fullname -}}
{{- end -}}
{{- end -}}

{{/*
An image. "name" is control (no torch), cpu or gpu (vLLM and the trainers); or "gpu": true for gpu,
false for control. A digest wins over the tag.
*/}}
{{- define "learnback.image" -}}
{{- $name := .name | default (ternary "gpu" "control" (.gpu | default false)) -}}
{{- $image := index .root.Values.image $name -}}
{{- $repository := $image.repository -}}
{{- with .root.Values.image.registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "learnback.podSecurityContext" -}}
{{- toYaml .Values.podSecurityContext -}}
{{- end -}}

{{- define "learnback.containerSecurityContext" -}}
{{- toYaml .Values.containerSecurityContext -}}
{{- end -}}

{{/* What a process of ours needs that reads no ledger, no stream and no artifact. */}}
{{- define "learnback.baseEnv" -}}
- name: HOME
  value: /tmp
- name: USER
  value: learnback
- name: LEARNBACK_HOME
  value: {{ include "learnback.home" . }}
- name: LEARNBACK_MODEL
  value: {{ .Values.model.name | quote }}
{{- end -}}

{{/*
The environment that every process shares, as a list of name and value: where the model, the ledger,
the streams and the artifacts are. Pods that use it set `enableServiceLinks: false`: Kubernetes would
add LEARNBACK_FEEDBACK_PORT=tcp://... for our Services, which our settings would take for theirs.
*/}}
{{- define "learnback.env" -}}
{{- $values := .Values -}}
{{ include "learnback.baseEnv" . }}
- name: LEARNBACK_HELD_OUT_SHARE
  value: {{ $values.heldOutShare | quote }}
- name: LEARNBACK_LOG_FORMAT
  value: {{ $values.logFormat | quote }}
- name: LEARNBACK_LOG_LEVEL
  value: {{ $values.logLevel | quote }}
- name: LEARNBACK_REQUIRE_KEYS
  value: "true"
{{ include "learnback.redisEnv" . }}
{{ include "learnback.databaseEnv" . }}
{{ include "learnback.artifactsEnv" . }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The folder of LEARNBACK_HOME: an emptyDir in which what must last is mounted. */}}
{{- define "learnback.home" -}}/var/lib/learnback{{- end -}}

{{- define "learnback.redisEnv" -}}
{{- if .Values.valkey.enabled -}}
- name: VALKEY_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "learnback.valkey.secretName" . }}
      key: {{ .Values.valkey.existingSecretKey }}
- name: LEARNBACK_REDIS_URL
  value: redis://:$(VALKEY_PASSWORD)@{{ include "learnback.fullname" . }}-valkey:6379/0
{{- else -}}
- name: LEARNBACK_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.externalRedis.existingSecret | default (include "learnback.connectionsSecretName" .) }}
      key: {{ ternary .Values.externalRedis.existingSecretKey "redis-url" (ne .Values.externalRedis.existingSecret "") }}
{{- end -}}
{{- end -}}

{{- define "learnback.databaseEnv" -}}
{{- if eq (include "learnback.sqlite" .) "true" -}}
- name: LEARNBACK_DATABASE_URL
  value: sqlite:///{{ include "learnback.home" . }}/ledger/ledger.db
{{- else -}}
- name: LEARNBACK_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.externalDatabase.existingSecret | default (include "learnback.connectionsSecretName" .) }}
      key: {{ ternary .Values.externalDatabase.existingSecretKey "database-url" (ne .Values.externalDatabase.existingSecret "") }}
{{- end -}}
{{- end -}}

{{- define "learnback.artifactsEnv" -}}
- name: LEARNBACK_ARTIFACTS_URL
  value: {{ .Values.artifacts.url | default (printf "file://%s/artifacts" (include "learnback.home" .)) | quote }}
{{- with .Values.artifacts.s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .Values.artifacts.s3.region }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.artifacts.s3.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.artifacts.s3.accessKeyIdKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.artifacts.s3.secretAccessKeyKey }}
{{- end }}
{{- end -}}

{{/* Where pods that load the model get it from, and all that vLLM, Triton, torch and their libraries write, since the root
is read-only. */}}
{{- define "learnback.modelEnv" -}}
{{- $cache := printf "%s/cache" (include "learnback.home" .) -}}
{{- range $name, $folder := dict "HF_HOME" "huggingface" "XDG_CACHE_HOME" "xdg" "VLLM_CACHE_ROOT" "vllm" "VLLM_CONFIG_ROOT" "vllm-config" "TRITON_CACHE_DIR" "triton" "TRITON_HOME" "triton-home" "TORCHINDUCTOR_CACHE_DIR" "inductor" "TORCH_EXTENSIONS_DIR" "torch-extensions" "TORCH_HOME" "torch" "NUMBA_CACHE_DIR" "numba" "CUDA_CACHE_PATH" "cuda" "FLASHINFER_WORKSPACE_BASE" "flashinfer" "OUTLINES_CACHE_DIR" "outlines" }}
- name: {{ $name }}
  value: {{ $cache }}/{{ $folder }}
{{- end }}
{{- with .Values.model.hub.endpoint }}
- name: HF_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.model.hub.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.model.hub.existingSecretKey }}
{{- end }}
{{- end -}}

{{/* "true" where the ledger is SQLite on a volume of ours. */}}
{{- define "learnback.sqlite" -}}
{{- not (or .Values.externalDatabase.url .Values.externalDatabase.existingSecret) -}}
{{- end -}}

{{/* "true" where artifacts are on a volume that only one node can mount. */}}
{{- define "learnback.artifactsOnOneNode" -}}
{{- and (not .Values.artifacts.url) (not (has "ReadWriteMany" .Values.artifacts.persistence.accessModes)) -}}
{{- end -}}

{{/* "true" where pods that keep or read data must share a node (decision 0009). */}}
{{- define "learnback.oneNode" -}}
{{- or (eq (include "learnback.sqlite" .) "true") (eq (include "learnback.artifactsOnOneNode" .) "true") -}}
{{- end -}}

{{/* "true" where reward models go to the reward engine on a volume that only one node can mount. */}}
{{- define "learnback.rewardModelsOnOneNode" -}}
{{- and .Values.rewardEngine.enabled (not (has "ReadWriteMany" .Values.rewardEngine.models.accessModes)) -}}
{{- end -}}

{{- define "learnback.ledgerClaim" -}}
{{- .Values.sqlite.persistence.existingClaim | default (printf "%s-ledger" (include "learnback.fullname" .)) -}}
{{- end -}}

{{- define "learnback.artifactsClaim" -}}
{{- .Values.artifacts.persistence.existingClaim | default (printf "%s-artifacts" (include "learnback.fullname" .)) -}}
{{- end -}}

{{- define "learnback.modelCacheClaim" -}}
{{- .Values.model.cache.existingClaim | default (printf "%s-model-cache" (include "learnback.fullname" .)) -}}
{{- end -}}

{{/* Reward models as the reward engine loads them. */}}
{{- define "learnback.rewardModelsClaim" -}}
{{- .Values.rewardEngine.models.existingClaim | default (printf "%s-reward-models" (include "learnback.fullname" .)) -}}
{{- end -}}

{{/* Run folders and checkpoints: written by retraining, trained in by the Jobs. */}}
{{- define "learnback.checkpointClaim" -}}
{{- .Values.training.checkpoint.existingClaim | default (printf "%s-checkpoints" (include "learnback.fullname" .)) -}}
{{- end -}}

{{- define "learnback.valkey.secretName" -}}
{{- .Values.valkey.existingSecret | default (printf "%s-valkey" (include "learnback.fullname" .)) -}}
{{- end -}}

{{/* URLs with passwords that were given as values. */}}
{{- define "learnback.connectionsSecretName" -}}
{{- printf "%s-connections" (include "learnback.fullname" .) -}}
{{- end -}}

{{/* API keys of our own processes: release, check, admin. */}}
{{- define "learnback.keysSecretName" -}}
{{- .Values.apiKeys.existingSecret | default (printf "%s-api-keys" (include "learnback.fullname" .)) -}}
{{- end -}}
