{{/*
Annotations of a hook of the migration, with "weight": what the Job needs has a lower one. After an install, since the
volumes and Valkey come with it; before an upgrade, so that one which fails stops it. The upgrade's own objects are not
there yet then, so the Job brings what it needs along.
*/}}
{{- define "learnback.migrate.hook" -}}
helm.sh/hook: post-install,pre-upgrade
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
