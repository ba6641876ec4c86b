{{/*
Which node a pod goes to: what the chart says of all pods, what its component says, and what is said of every component
that must share its node. Else the first pod to come could take a node that another one may not go to, which would then
wait for ever. Arguments as in _pod.tpl.
*/}}

{{- define "learnback.placement" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with include "learnback.nodeSelector" . | fromYaml }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "learnback.tolerations" . | fromYamlArray }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "learnback.affinity" . | fromYaml }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "learnback.nodeSelector" -}}
{{- $labels := dict -}}
{{- range include "learnback.neighbours" . | fromJsonArray -}}
{{- $labels = merge $labels ((index $.root.Values (. | camelcase | untitle)).nodeSelector | default dict) -}}
{{- end -}}
{{- toYaml (merge $labels (.values.nodeSelector | default dict) .root.Values.nodeSelector) -}}
{{- end -}}

{{- define "learnback.tolerations" -}}
{{- $found := .values.tolerations | default list -}}
{{- range include "learnback.neighbours" . | fromJsonArray -}}
{{- $found = concat $found ((index $.root.Values (. | camelcase | untitle)).tolerations | default list) -}}
{{- end -}}
{{- toYaml (concat $found .root.Values.tolerations | uniq) -}}
{{- end -}}

{{/* The components whose pods must be on the same node as this one's, itself among them, in one order for all of them;
none where it goes where it likes. */}}
{{- define "learnback.neighbours" -}}
{{- $names := list -}}
{{- if and (eq .component "training") (eq (include "learnback.checkpointOnOneNode" .root) "true") -}}
{{- $names = include "learnback.neighbours" (dict "root" .root "component" "retraining") | fromJsonArray -}}
{{- else -}}
{{- if eq (include "learnback.pinned" .) "true" -}}
{{- range list "inference" "feedback" "reward" "release" "reward-engine" "migrate" "retraining" -}}
{{- if eq (include "learnback.pinned" (dict "root" $.root "component" .)) "true" -}}
{{- $names = append $names . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (or (eq .component "retraining") (has "retraining" $names)) (eq (include "learnback.checkpointOnOneNode" .root) "true") -}}
{{- $names = append $names "retraining" | uniq -}}
{{- $names = append $names "training" -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* The component's own rules, and that of one node where it holds. */}}
{{- define "learnback.affinity" -}}
{{- $affinity := deepCopy (.values.affinity | default dict) -}}
{{- if eq (include "learnback.pinned" .) "true" -}}
{{- $together := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "app.kubernetes.io/instance" .root.Release.Name "learnback.dev/data" "one-node")) -}}
{{- $key := "requiredDuringSchedulingIgnoredDuringExecution" -}}
{{- $pods := get $affinity "podAffinity" | default dict -}}
{{- $_ := set $pods $key (append (get $pods $key | default list) $together) -}}
{{- $_ := set $affinity "podAffinity" $pods -}}
{{- end -}}
{{- toYaml $affinity -}}
{{- end -}}

{{/* Replicas over nodes, as far as nothing holds them together. */}}
{{- define "learnback.spread" -}}
topologySpreadConstraints:
{{- $own := dict "labelSelector" (dict "matchLabels" (include "learnback.selectorLabels" . | fromYaml)) }}
{{- range .values.topologySpreadConstraints }}
  - {{- toYaml (ternary . (merge (dict) . $own) (hasKey . "labelSelector")) | nindent 4 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "learnback.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end -}}
