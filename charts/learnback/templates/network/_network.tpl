{{/*
Pieces of NetworkPolicies. Who talks to whom is in the policies themselves, one a component; a test compares them with
the table of the design.
*/}}

{{- define "learnback.network.head" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "learnback.fullname" .root }}-{{ .component }}
  labels:
    {{- include "learnback.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  podSelector:
    matchLabels:
      {{- include "learnback.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end -}}

{{/* Peers: pods of the components named. */}}
{{- define "learnback.network.pods" -}}
{{- $root := .root -}}
{{- range .components }}
- podSelector:
    matchLabels:
      {{- include "learnback.selectorLabels" (dict "root" $root "component" .) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* An ingress rule to port "port": from "components", and from "peers" given as values. */}}
{{- define "learnback.network.from" -}}
{{- if or .components .peers -}}
- from:
    {{- with .components }}
    {{- include "learnback.network.pods" (dict "root" $.root "components" .) | indent 4 }}
    {{- end }}
    {{- with .peers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - port: {{ .port }}
      protocol: TCP
{{- end -}}
{{- end -}}

{{/* An egress rule to components of ours. */}}
{{- define "learnback.network.to" -}}
- to:
    {{- include "learnback.network.pods" . | indent 4 }}
  ports:
    - port: {{ .port }}
      protocol: TCP
{{- end -}}

{{/* An egress rule to what is outside, at the ports of its "urls" and at "ports"; "to": where that is (empty: anywhere). */}}
{{- define "learnback.network.out" -}}
- ports:
    {{- range concat (include "learnback.network.ports" (.urls | default list) | fromJsonArray) .ports | uniq }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* The TCP ports of URLs, as a list in JSON: what each names, or what its scheme stands for. By patterns, since a password
need not be quoted for its driver as a URL's parser would have it. */}}
{{- define "learnback.network.ports" -}}
{{- $usual := dict "https" 443 "http" 80 "redis" 6379 "rediss" 6379 "postgresql" 5432 -}}
{{- $ports := list -}}
{{- range $url := . -}}
{{- $scheme := regexFind "^[a-z]+" $url -}}
{{- range regexReplaceAll "^[a-z+0-9]+://(.*@)?" $url "" | regexFind "^[^/?]*" | splitList "," -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default (get $usual $scheme) | int) -}}
{{- end -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{- define "learnback.network.dns" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  {{- with .Values.networkPolicy.dns }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* DNS, the streams and the ledger: what every process needs. */}}
{{- define "learnback.network.backbone" -}}
{{ include "learnback.network.dns" . }}
{{- if .Values.valkey.enabled }}
{{ include "learnback.network.to" (dict "root" . "components" (list "valkey") "port" 6379) }}
{{- else }}
{{ include "learnback.network.out" (dict "to" .Values.networkPolicy.redis.to "ports" (list .Values.networkPolicy.redis.port)) }}
{{- end }}
{{- if ne (include "learnback.sqlite" .) "true" }}
{{ include "learnback.network.out" (dict "to" .Values.networkPolicy.database.to "ports" (list .Values.networkPolicy.database.port)) }}
{{- end }}
{{- end -}}

{{/* The artifact store, where it is not a volume. */}}
{{- define "learnback.network.artifacts" -}}
{{- if .Values.artifacts.url -}}
{{ include "learnback.network.web" . }}
{{- end -}}
{{- end -}}

{{- define "learnback.network.web" -}}
{{ include "learnback.network.out" .Values.networkPolicy.web }}
{{- end -}}
