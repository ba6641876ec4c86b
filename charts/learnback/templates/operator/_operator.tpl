{{/*
"true" unless the CRD came with another release of this chart: it is of the whole cluster, and Helm refuses what belongs
to another one. It stays with the first; docs/operating.md says how to hand it over.
*/}}
{{- define "learnback.operator.crdIsOurs" -}}
{{- $there := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "modelreleases.learnback.dev" | default dict -}}
{{- $owner := ($there.metadata | default dict).annotations | default dict -}}
{{- $name := get $owner "meta.helm.sh/release-name" -}}
{{- $namespace := get $owner "meta.helm.sh/release-namespace" -}}
{{- or (not $there) (and (eq $name .Release.Name) (eq $namespace .Release.Namespace)) -}}
{{- end -}}
