{{/* What the release policy names beside itself: files, and a judge with its token. */}}

{{- define "learnback.policy.judgeUrl" -}}
{{- (.Values.release.policy.judge | default dict).url | default "" -}}
{{- end -}}

{{/* The token of the policy's judge: of a Secret of its own, or that of `judge` where both are one server; no other server
is told it. */}}
{{- define "learnback.policy.judgeKey" -}}
{{- $own := .Values.release.judgeKey -}}
{{- $server := "^[a-z]+://[^/?]*" -}}
{{- $url := include "learnback.policy.judgeUrl" . -}}
{{- if and (not $own.existingSecret) (eq (regexFind $server $url) (regexFind $server .Values.judge.url)) -}}
{{- $own = .Values.judge -}}
{{- end -}}
{{- if and $url $own.existingSecret }}
- name: LEARNBACK_RELEASE_JUDGE_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $own.existingSecret }}
      key: {{ $own.existingSecretKey }}
{{- end }}
{{- end -}}

{{/* The folder of the policy: the file itself, what was given with it, and what a ConfigMap and a Secret of yours have. */}}
{{- define "learnback.policy.volume" -}}
{{- $files := .Values.release.policyFiles -}}
- name: policy
  projected:
    sources:
      {{- with $files.existingConfigMap }}
      - configMap:
          name: {{ . }}
      {{- end }}
      {{- with $files.existingSecret }}
      - secret:
          name: {{ . }}
      {{- end }}
      - configMap:
          name: {{ include "learnback.fullname" . }}-release-policy
{{- end -}}
