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
    {{- include "learnback.network.pods" (dict "root" $.root "components" .) | trim | nindent 4 }}
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
    {{- include "learnback.network.pods" . | trim | nindent 4 }}
  ports:
    - port: {{ .port }}
      protocol: TCP
{{- end -}}

{{/* An egress rule to what is outside, at the ports of its "urls" and at "ports"; "to": where that is (empty: anywhere). */}}
{{- define "learnback.network.out" -}}
{{- /* a rule without ports would be about all of them */}}
{{- with concat (include "learnback.network.ports" (.urls | default list) | fromJsonArray) .ports | uniq -}}
- ports:
    {{- range . }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with $.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The TCP ports of URLs, as a list in JSON: what each names, or what its scheme stands for. By patterns, since a password
need not be quoted for its driver as a URL's parser would have it. */}}
{{- define "learnback.network.ports" -}}
{{- $usual := dict "https" 443 "http" 80 "grpc" 4317 "redis" 6379 "rediss" 6379 "postgresql" 5432 -}}
{{- $ports := list -}}
{{- range $url := . -}}
{{- $scheme := regexFind "^[a-z]+" $url -}}
{{- range regexReplaceAll "^[a-z+0-9]+://(.*@)?" $url "" | regexFind "^[^/?]*" | splitList "," -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default (get $usual $scheme) | int) -}}
{{- end -}}
{{- end -}}
{{- toJson (without $ports 0) -}}
{{- end -}}

{{- define "learnback.network.dns" -}}
- ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* DNS, the streams and the ledger: what every process needs. */}}
{{- define "learnback.network.backbone" -}}
{{- $values := .Values -}}
{{ include "learnback.network.dns" . }}
{{- if $values.valkey.enabled }}
{{ include "learnback.network.to" (dict "root" . "components" (list "valkey") "port" 6379) }}
{{- else }}
{{- $address := ternary "" (printf "redis://%s" $values.externalRedis.address) (empty $values.externalRedis.address) }}
{{ include "learnback.network.server" (dict "urls" (list $values.externalRedis.url $address) "peer" $values.networkPolicy.redis "usual" 6379) }}
{{- end }}
{{- if ne (include "learnback.sqlite" .) "true" }}
{{ include "learnback.network.server" (dict "urls" (list $values.externalDatabase.url) "peer" $values.networkPolicy.database "usual" 5432) }}
{{- end }}
{{- end -}}

{{/* An egress rule to a server whose URL may be in a Secret, where it can't be read: then at its "usual" port. */}}
{{- define "learnback.network.server" -}}
{{- $urls := compact .urls -}}
{{- $ports := ternary (list) (list .peer.port) (kindIs "invalid" .peer.port) -}}
{{- if not (or $urls $ports) -}}
{{- $ports = list .usual -}}
{{- end -}}
{{ include "learnback.network.out" (dict "urls" $urls "to" .peer.to "ports" $ports) }}
{{- end -}}

{{/* An egress rule to where the variables and arguments that the values add lead, by their URLs: a proxy, a collector of
traces, a reward engine of yours. "values": a component's block, beside what all have; none where they name no URL. */}}
{{- define "learnback.network.named" -}}
{{- $values := .values | default dict -}}
{{- $urls := list -}}
{{- range concat .root.Values.extraEnv ($values.extraEnv | default list) -}}
{{- $urls = append $urls (.value | default "" | toString) -}}
{{- end -}}
{{- range $values.engineArgs | default list -}}
{{- $urls = append $urls (regexReplaceAll "^--[a-z-]+=" . "") -}}
{{- end -}}
{{- $found := list -}}
{{- range $urls -}}
{{- if regexMatch "^(https?|grpc)://" . -}}
{{- $found = append $found . -}}
{{- end -}}
{{- end -}}
{{- $more := .root.Values.networkPolicy.more -}}
{{- if or $found $more.ports -}}
{{ include "learnback.network.out" (dict "urls" $found "to" $more.to "ports" $more.ports) }}
{{- end -}}
{{- end -}}

{{/* The artifact store, where it is not a volume. */}}
{{- define "learnback.network.artifacts" -}}
{{- if .Values.artifacts.url -}}
{{ include "learnback.network.web" . }}
{{- end -}}
{{- end -}}

{{- define "learnback.network.web" -}}
{{- $urls := compact (list .Values.model.hub.endpoint .Values.artifacts.s3.endpoint) -}}
{{ include "learnback.network.out" (dict "urls" $urls "to" .Values.networkPolicy.web.to "ports" .Values.networkPolicy.web.ports) }}
{{- end -}}
