{{/* URLs that were given as values, as data of a Secret; nothing where all are in Secrets of yours. */}}
{{- define "learnback.connections" -}}
{{- if and .Values.externalDatabase.url (not .Values.externalDatabase.existingSecret) }}
database-url: {{ .Values.externalDatabase.url | quote }}
{{- end }}
{{- if and (not .Values.valkey.enabled) .Values.externalRedis.url (not .Values.externalRedis.existingSecret) }}
redis-url: {{ .Values.externalRedis.url | quote }}
{{- end }}
{{- end -}}

{{/* The data of a Secret that is in the cluster, still encoded; empty where there is none or no cluster. */}}
{{- define "learnback.kept" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .name | default dict -}}
{{- toJson ($secret.data | default dict) -}}
{{- end -}}

{{/* The keys of our own processes, and what each may do: no more than its user needs. */}}
{{- define "learnback.keyScopes" -}}
release: [infer, evaluate]
check: [infer, feedback]
admin: [admin]
{{- if eq .Values.apiKeys.operatorKey "operator" }}
operator: [release]
{{- end }}
{{- if eq .Values.apiKeys.scheduleKey "schedule" }}
schedule: [train]
{{- end }}
{{- end -}}

{{/* These keys, encoded: those that are in the cluster, and new ones. They are made once in a rendering, since the Secret and
the copy that the hook brings along must say the same. */}}
{{- define "learnback.apiKeys" -}}
{{- if not (hasKey .Values "keysOfThisRendering") -}}
{{- $kept := include "learnback.kept" (dict "root" . "name" (include "learnback.keysSecretName" .)) | fromJson -}}
{{- $keys := dict -}}
{{- range $key, $_ := include "learnback.keyScopes" . | fromYaml -}}
{{- $_ := set $keys $key (get $kept $key | default (include "learnback.newKey" $ | b64enc)) -}}
{{- end -}}
{{- $_ := set .Values "keysOfThisRendering" $keys -}}
{{- end -}}
{{- toYaml .Values.keysOfThisRendering -}}
{{- end -}}

{{- define "learnback.newKey" -}}
{{- printf "lb_%s_%s" (randAlphaNum 32 | sha256sum | trunc 16) (randAlphaNum 43) -}}
{{- end -}}
