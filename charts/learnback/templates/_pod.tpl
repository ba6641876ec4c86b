{{/* Parts of pods. Arguments: "root", "component", and "values", the component's block of values. */}}

{{/* "true" where pods with data must share a node, and this component has such data. */}}
{{- define "learnback.pinned" -}}
{{- $all := and (eq (include "learnback.oneNode" .root) "true") (has .component (list "inference" "feedback" "reward" "retraining" "release" "migrate")) -}}
{{- $rewards := and (eq (include "learnback.rewardModelsOnOneNode" .root) "true") (has .component (list "reward" "release" "reward-engine")) -}}
{{- or $all $rewards -}}
{{- end -}}

{{/* Without the versions of chart and app: a pod restarts only for what changes it. */}}
{{- define "learnback.podLabels" -}}
{{ include "learnback.selectorLabels" . }}
app.kubernetes.io/part-of: learnback
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- if eq (include "learnback.pinned" .) "true" }}
learnback.dev/data: one-node
{{- end }}
{{- end -}}

{{/* A changed URL restarts the pods that read it. */}}
{{- define "learnback.podAnnotations" -}}
{{- with merge (dict) (.values.podAnnotations | default dict) .root.Values.podAnnotations }}
{{- toYaml . }}
{{ end -}}
checksum/connections: {{ include "learnback.connections" .root | sha256sum }}
{{- end -}}

{{- define "learnback.podSpec" -}}
{{- $token := or (eq .component "operator") (and (eq .component "retraining") .root.Values.training.enabled) -}}
serviceAccountName: {{ include "learnback.serviceAccountName" . }}
automountServiceAccountToken: {{ $token }}
enableServiceLinks: false
securityContext:
  {{- include "learnback.podSecurityContext" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- include "learnback.placement" . }}
{{- end -}}

{{/* Settings LEARNBACK_<PROCESS>_<NAME>, sorted by name. */}}
{{- define "learnback.settings" -}}
{{- $process := .component | upper -}}
- name: LEARNBACK_{{ $process }}_HOST
  value: {{ .root.Values.listenHost | quote }}
- name: LEARNBACK_{{ $process }}_PORT
  value: {{ include "learnback.port" . | quote }}
# from SIGTERM on it is not ready and closes connections, and serves new ones as long as Services send them
- name: LEARNBACK_LINGER
  value: PT{{ (.values.drain | default dict).lingerSeconds | default 5 }}S
{{- range $name, $value := .values.settings }}
- name: LEARNBACK_{{ $process }}_{{ $name | upper }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{/* A process's port, in its pod and of its Service. */}}
{{- define "learnback.port" -}}
{{- get (dict "inference" "8000" "feedback" "8001" "reward" "8002" "retraining" "8003" "release" "8004" "operator" "8005" "reward-engine" "8010") .component -}}
{{- end -}}

{{- define "learnback.ports" -}}
ports:
  - name: http
    containerPort: {{ include "learnback.port" . }}
    protocol: TCP
{{- end -}}

{{/* Alive is cheap and says nothing of others; ready says that the process can do its job now. "health": the one path of
a process that tells no difference. */}}
{{- define "learnback.probes" -}}
startupProbe:
  httpGet: {path: {{ .health | default "/healthz" }}, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ .startFailures | default 36 }}
readinessProbe:
  httpGet: {path: {{ .health | default "/readyz" }}, port: http}
  periodSeconds: 5
  timeoutSeconds: 6
  failureThreshold: 3
livenessProbe:
  httpGet: {path: {{ .health | default "/healthz" }}, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* Mounts of LEARNBACK_HOME: what must last lies in it as volumes of their own. */}}
{{- define "learnback.mounts" -}}
{{- $home := include "learnback.home" .root -}}
- name: home
  mountPath: {{ $home }}
{{- range include "learnback.folders" . | fromJsonArray }}
- name: {{ . }}
  mountPath: {{ $home }}/{{ . }}
{{- end }}
- name: tmp
  mountPath: /tmp
{{- if and (eq (include "learnback.sqlite" .root) "true") (ne .component "reward-engine") }}
- name: ledger
  mountPath: {{ $home }}/ledger
{{- end }}
{{- if and .artifacts (not .root.Values.artifacts.url) }}
- name: artifacts
  mountPath: {{ $home }}/artifacts
{{- end }}
{{- if and .model (eq (include "learnback.modelOnVolume" .root) "true") }}
- name: model
  mountPath: /models
  readOnly: true
{{- end }}
{{- end -}}

{{/* Folders of LEARNBACK_HOME in which something is mounted deeper, as volumes of their own: the container runtime would make
them as root (decision 0068). */}}
{{- define "learnback.folders" -}}
{{- ternary (list "cache" "release") (list "cache") (has .component (list "release" "reward-engine")) | toJson -}}
{{- end -}}

{{- define "learnback.volumes" -}}
{{- $disk := ternary "{}" (printf "{sizeLimit: %s}" .cacheSize) (empty .cacheSize) -}}
- name: home
  emptyDir: {{ $disk }}
{{- range include "learnback.folders" . | fromJsonArray }}
- name: {{ . }}
  emptyDir: {{ $disk }}
{{- end }}
- name: tmp
  emptyDir: {}
{{- if and (eq (include "learnback.sqlite" .root) "true") (ne .component "reward-engine") }}
- name: ledger
  persistentVolumeClaim:
    claimName: {{ include "learnback.ledgerClaim" .root }}
{{- end }}
{{- if and .artifacts (not .root.Values.artifacts.url) }}
- name: artifacts
  persistentVolumeClaim:
    claimName: {{ include "learnback.artifactsClaim" .root }}
{{- end }}
{{- if and .model (eq (include "learnback.modelOnVolume" .root) "true") }}
{{ include "learnback.modelVolume" .root }}
{{- end }}
{{- end -}}

{{- define "learnback.modelOnVolume" -}}
{{- not (not (or .Values.model.volume.existingClaim .Values.model.volume.image)) -}}
{{- end -}}

{{/* The model's files, for a pod that mounts them at /models. */}}
{{- define "learnback.modelVolume" -}}
- name: model
  {{- with .Values.model.volume.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
  {{- end }}
  {{- with .Values.model.volume.image }}
  image:
    reference: {{ . }}
    pullPolicy: {{ $.Values.image.pullPolicy }}
  {{- end }}
{{- end -}}

{{/* `replicas`, where it is set. Helm applies server-side: a field that it renders is its own, and an upgrade fails
once somebody else has scaled. So by default, and with an autoscaler, there is none. */}}
{{- define "learnback.replicas" -}}
{{- if kindIs "invalid" .values.replicas -}}
{{- else -}}
replicas: {{ .values.replicas }}
{{- end -}}
{{- end -}}

{{/* "true" where a component can have more than one pod. */}}
{{- define "learnback.replicated" -}}
{{- $scaling := .values.autoscaling -}}
{{- $scaled := or $scaling.enabled (and $scaling.by (ne $scaling.by "none")) -}}
{{- if $scaled -}}
{{- gt (int $scaling.maxReplicas) 1 -}}
{{- else -}}
{{- gt (int (.values.replicas | default 1)) 1 -}}
{{- end -}}
{{- end -}}
