{{/*
Refuses combinations of values that can't work, and says the way out. All that is wrong is said at once.
*/}}
{{- define "learnback.validate" -}}
{{- $problems := list -}}
{{- range $check := list "model" "redis" "artifacts" "replicas" "engine" "scaling" "gateway" "keys" "training" "judge" "policy" "rewardEngine" "placement" "gpus" "names" "environment" -}}
{{- $found := include (printf "learnback.validate.%s" $check) $ | trim -}}
{{- if $found -}}
{{- $problems = append $problems $found -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n\nThese values can't work:\n%s\n" (join "\n" $problems)) -}}
{{- end -}}
{{- end -}}

{{- define "learnback.validate.model" -}}
{{- $volume := .Values.model.volume -}}
{{- if not .Values.model.name }}
- model.name is empty: name a model of a hub, or a path under /models.
{{- end }}
{{- if and $volume.existingClaim $volume.image }}
- model.volume has a claim and an image: keep one of model.volume.existingClaim and model.volume.image.
{{- end }}
{{- if and (or $volume.existingClaim $volume.image) (not (hasPrefix "/models" .Values.model.name)) }}
- model.volume is mounted at /models, so model.name must begin with /models, not be {{ .Values.model.name }}.
{{- end }}
{{- if and (hasPrefix "/" .Values.model.name) (not (or $volume.existingClaim $volume.image)) }}
- model.name is the path {{ .Values.model.name }}, but nothing is mounted there: set model.volume.existingClaim or model.volume.image.
{{- end }}
{{- if and $volume.image (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) }}
- model.volume.image needs Kubernetes 1.33 and its feature ImageVolume, this is {{ .Capabilities.KubeVersion.Version }}: use model.volume.existingClaim.
{{- end }}
{{- end -}}

{{- define "learnback.validate.redis" -}}
{{- $named := or .Values.externalRedis.url .Values.externalRedis.existingSecret -}}
{{- if and (not .Values.valkey.enabled) (not $named) }}
- There are no streams: set externalRedis.url or externalRedis.existingSecret, or valkey.enabled=true.
{{- end }}
{{- if and .Values.valkey.enabled $named }}
- There are two places for streams: set valkey.enabled=false to use externalRedis, or remove externalRedis.
{{- end }}
{{- if and .Values.valkey.enabled (not (.Values.valkey.resources.limits | default dict).memory) }}
- valkey.resources has no limits.memory, of which its maxmemory is a share: set it, else data grows to a share of the node's.
{{- end }}
{{- end -}}

{{- define "learnback.validate.artifacts" -}}
{{- if has "ReadWriteOncePod" .Values.artifacts.persistence.accessModes }}
- artifacts.persistence.accessModes: ReadWriteOncePod shuts out all pods but one: use ReadWriteMany, or ReadWriteOnce on one node.
{{- end }}
{{- if and .Values.artifacts.url (hasPrefix "file:" .Values.artifacts.url) }}
- artifacts.url is a folder of a container: leave it empty for the volume, or use s3://.
{{- end }}
{{- if and .Values.model.cache.enabled (not (has "ReadWriteMany" .Values.model.cache.accessModes)) (eq (include "learnback.replicated" (dict "values" .Values.inference)) "true") }}
- model.cache can be mounted on one node only, but inference has several replicas: use ReadWriteMany, or model.cache.enabled=false.
{{- end }}
{{- $surge := .Values.inference.rollout.maxSurge | toString -}}
{{- $apart := and (not (has "ReadWriteMany" .Values.model.cache.accessModes)) (ne (include "learnback.oneNode" .) "true") -}}
{{- if and .Values.model.cache.enabled $apart (not (has $surge (list "0" "0%"))) }}
- model.cache can be mounted on one node only, and with inference.rollout.maxSurge={{ $surge }} a new pod on another one would wait for it for ever: use ReadWriteMany, or maxSurge=0.
{{- end }}
{{- if and .Values.model.cache.enabled (has "ReadWriteOncePod" .Values.model.cache.accessModes) }}
- model.cache.accessModes: ReadWriteOncePod shuts out every other pod that loads the model: use ReadWriteMany, or ReadWriteOnce on one node.
{{- end }}
{{- end -}}

{{- define "learnback.validate.replicas" -}}
{{- if eq (include "learnback.sqlite" .) "true" -}}
{{- range $name := list "inference" "feedback" "reward" -}}
{{- if eq (include "learnback.replicated" (dict "values" (index $.Values $name))) "true" }}
- {{ $name }} has more than one replica, but the ledger is SQLite, for trials with one of everything: set externalDatabase.url or externalDatabase.existingSecret.
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "learnback.validate.engine" -}}
{{- $inference := .Values.inference -}}
{{- if and (eq $inference.engine "external") (not $inference.externalEngineUrls) }}
- inference.engine=external has no engines: set inference.externalEngineUrls.
{{- end }}
{{- if and (ne $inference.engine "external") $inference.externalEngineUrls }}
- inference.externalEngineUrls is set, but inference.engine is {{ $inference.engine }}: set inference.engine=external, or remove the URLs.
{{- end }}
{{- if and (eq (toString $inference.rollout.maxSurge) "0") (eq (toString $inference.rollout.maxUnavailable) "0") }}
- inference.rollout lets no pod come and none go: raise maxSurge or maxUnavailable.
{{- end }}
{{- if and (eq $inference.engine "gpu") (hasKey ($inference.resources.limits | default dict) $inference.gpuResource) }}
- inference.resources counts {{ $inference.gpuResource }}: set inference.gpus, which is added to requests and limits.
{{- end }}
{{- end -}}

{{- define "learnback.validate.scaling" -}}
{{- $inference := .Values.inference -}}
{{- if and (ne $inference.autoscaling.by "none") (not (kindIs "invalid" $inference.replicas)) }}
- inference.replicas would fight inference.autoscaling: remove it.
{{- end }}
{{- if and (ne $inference.autoscaling.by "none") (eq $inference.engine "external") }}
- inference.autoscaling scales engines by their waiting requests, but inference.engine=external runs proxies: scale the engines where they run, and set inference.replicas.
{{- end }}
{{- if and (eq $inference.autoscaling.by "keda") (not $inference.autoscaling.prometheusUrl) }}
- inference.autoscaling.by=keda asks Prometheus: set inference.autoscaling.prometheusUrl.
{{- end }}
{{- if gt (int $inference.autoscaling.minReplicas) (int $inference.autoscaling.maxReplicas) }}
- inference.autoscaling: minReplicas is above maxReplicas.
{{- end }}
{{- range $name := list "feedback" "reward" -}}
{{- $component := index $.Values $name -}}
{{- if $component.autoscaling.enabled }}
{{- if not (kindIs "invalid" $component.replicas) }}
- {{ $name }}.replicas would fight {{ $name }}.autoscaling: remove it.
{{- end }}
{{- if gt (int $component.autoscaling.minReplicas) (int $component.autoscaling.maxReplicas) }}
- {{ $name }}.autoscaling: minReplicas is above maxReplicas.
{{- end }}
{{- if and (not $.Values.valkey.enabled) (not $.Values.externalRedis.address) }}
- {{ $name }}.autoscaling: KEDA can't read the address out of a URL: set externalRedis.address, and externalRedis.passwordSecret if it asks for one.
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "learnback.validate.gateway" -}}
{{- $gateway := .Values.gateway -}}
{{- if and $gateway.httpRoute.enabled (not $gateway.httpRoute.parentRefs) }}
- gateway.httpRoute belongs to no Gateway: set gateway.httpRoute.parentRefs.
{{- end }}
{{- if and $gateway.inferencePool.enabled (not $gateway.inferencePool.endpointPicker) }}
- gateway.inferencePool needs an endpoint picker: set gateway.inferencePool.endpointPicker to its Service.
{{- end }}
{{- end -}}

{{/* A setting that a value of the chart sets would be there twice, and so would two names that differ in case. */}}
{{- define "learnback.validate.keys" -}}
{{- $set := dict "inference" (list "public_name" "spool_bytes" "drain" "engine_urls" "engine_key" "engine_args") "feedback" list "reward" (list "judge_url" "judge_model" "judge_api_key" "judge_rubric") "retraining" (list "job_template") "release" (list "inference_url" "api_key" "judge_api_key" "policy") "operator" (list "release_url" "api_key") -}}
{{- range $process, $names := $set -}}
{{- range $name, $_ := (index $.Values $process).settings -}}
{{- if ne $name (lower $name) }}
- {{ $process }}.settings.{{ $name }}: names are in lower case, {{ lower $name }}.
{{- end }}
{{- if has (lower $name) (concat $names (list "host" "port")) }}
- {{ $process }}.settings.{{ $name }} is set by the chart from a value of its own: use that one.
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What would be there twice, or keep others from finding a pod. */}}
{{- define "learnback.validate.names" -}}
{{- $ours := list "helm.sh/chart" -}}
{{- range list "name" "instance" "component" "version" "managed-by" "part-of" -}}
{{- $ours = append $ours (printf "app.kubernetes.io/%s" .) -}}
{{- end -}}
{{- range $label, $_ := .Values.commonLabels -}}
{{- if or (has $label $ours) (hasPrefix "learnback.dev/" $label) (eq $label "kueue.x-k8s.io/queue-name") }}
- commonLabels.{{ $label }} is a label that the chart sets, and finds its pods by: use one of your own.
{{- end }}
{{- end }}
{{- if regexMatch "^(127\\.|::1$|localhost$)" .Values.listenHost }}
- listenHost is {{ .Values.listenHost }}, which probes, Services and scrapers never reach: use 0.0.0.0 or ::.
{{- end }}
{{- end -}}

{{/* The API server takes each variable of a container once. Each text has extraEnv in it, and what the chart sets beside it. */}}
{{- define "learnback.validate.environment" -}}
{{- $root := . -}}
{{- $env := include "learnback.env" . -}}
{{- $texts := list (printf "%s\n%s\n%s" $env (include "learnback.training.runEnv" .) "- name: LEARNBACK_API_KEY") -}}
{{- range list "inference" "feedback" "reward" "retraining" "release" -}}
{{- $own := include "learnback.settings" (dict "root" $root "component" . "values" (index $.Values .)) -}}
{{- $texts = append $texts (printf "%s\n%s\n%s" $env $own (ternary (include "learnback.inference.env" $root) "" (eq . "inference"))) -}}
{{- end -}}
{{- $twice := list -}}
{{- range $texts -}}
{{- $seen := list -}}
{{- range fromYamlArray . -}}
{{- if has .name $seen -}}
{{- $twice = append $twice .name -}}
{{- end -}}
{{- $seen = append $seen .name -}}
{{- end -}}
{{- end -}}
{{- range uniq $twice }}
- {{ . }} is in an extraEnv and is set already, and a container has each variable once: remove it there, and use the value that sets it.
{{- end }}
{{- end -}}

{{/* A process on a GPU gets one only by asking for it, or by a runtime class that shows it all of the node's. */}}
{{- define "learnback.validate.gpus" -}}
{{- $values := .Values -}}
{{- $asking := dict -}}
{{- if eq $values.training.device "gpu" -}}
{{- $_ := set $asking "training" (dict "device" "training.device" "class" $values.training.runtimeClassName) -}}
{{- end -}}
{{- if and $values.neuralRewards.enabled (eq $values.neuralRewards.device "gpu") -}}
{{- range list "reward" "release" -}}
{{- $_ := set $asking . (dict "device" "neuralRewards.device" "class" "") -}}
{{- end -}}
{{- end -}}
{{- range $name, $asks := $asking -}}
{{- $limits := (index $values $name).resources.limits | default dict -}}
{{- if not (or $asks.class (contains "/" (keys $limits | join " "))) }}
- {{ $asks.device }} is gpu, but {{ $name }}.resources.limits has none: add one, such as nvidia.com/gpu: 1.
{{- end }}
{{- end }}
{{- end -}}

{{- define "learnback.validate.judge" -}}
{{- if and .Values.judge.url (not .Values.judge.model) }}
- judge.url has no model: set judge.model to the judge's name there.
{{- end }}
{{- if and (not .Values.judge.url) (or .Values.judge.model .Values.judge.existingSecret .Values.judge.rubric) }}
- judge has no judge.url: set it, or remove the rest.
{{- end }}
{{- end -}}

{{/* Paths in a policy are of files beside it. */}}
{{- define "learnback.validate.policy" -}}
{{- $policy := .Values.release.policy -}}
{{- $files := .Values.release.policyFiles -}}
{{- $named := dict "judge.rubric" ($policy.judge | default dict).rubric "golden.file" ($policy.golden | default dict).file -}}
{{- range $name, $path := $named }}
{{- if and $path (contains "/" $path) }}
- release.policy.{{ $name }} is {{ $path }}, but files lie beside the policy: give it in release.policyFiles, and name it without a folder.
{{- else if and $path (not (hasKey $files.inline $path)) (not (or $files.existingConfigMap $files.existingSecret)) }}
- release.policy.{{ $name }} names {{ $path }}, which nothing brings: give it in release.policyFiles.
{{- end }}
{{- end }}
{{- if hasKey $files.inline "release.yaml" }}
- release.policyFiles.inline has release.yaml, which is the policy itself: set release.policy.
{{- end }}
{{- if and (not $policy) (or $files.inline $files.existingConfigMap $files.existingSecret) }}
- release.policyFiles has files, but no policy names them: set release.policy.
{{- end }}
{{- if and .Values.release.judgeKey.existingSecret (not (include "learnback.policy.judgeUrl" .)) }}
- release.judgeKey is told to nobody: set release.policy.judge, or remove it.
{{- end }}
{{- end -}}

{{- define "learnback.validate.rewardEngine" -}}
{{- $engine := .Values.rewardEngine -}}
{{- if $engine.enabled }}
{{- if has "ReadWriteOncePod" $engine.models.accessModes }}
- rewardEngine.models.accessModes: ReadWriteOncePod shuts out reward and release: use ReadWriteMany, or ReadWriteOnce on one node.
{{- end }}
{{- if and (eq $engine.device "gpu") (hasKey ($engine.resources.limits | default dict) $engine.gpuResource) }}
- rewardEngine.resources counts {{ $engine.gpuResource }}: set rewardEngine.gpus, which is added to requests and limits.
{{- end }}
{{- $together := and (eq (include "learnback.oneNode" .) "true") (eq (include "learnback.rewardModelsOnOneNode" .) "true") }}
{{- if and .Values.model.cache.enabled (not (has "ReadWriteMany" .Values.model.cache.accessModes)) (not $together) }}
- model.cache can be mounted on one node only, but inference and the reward engine both read it: use ReadWriteMany, or model.cache.enabled=false.
{{- end }}
{{- range $name := list "engine_url" "engine_key" }}
{{- if hasKey $.Values.reward.settings $name }}
- reward.settings.{{ $name }} is set by the chart from rewardEngine: remove one of the two.
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if eq .name "LEARNBACK_REWARD_ENGINE_URL" }}
- extraEnv names an engine of yours (LEARNBACK_REWARD_ENGINE_URL), and rewardEngine.enabled makes one: remove one of the two.
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "learnback.validate.training" -}}
{{- $training := .Values.training -}}
{{- if and $training.jobSet.enabled (gt (int $training.jobSet.replicas) 1) (not (has "ReadWriteMany" $training.checkpoint.accessModes)) }}
- training.jobSet has several nodes, but training.checkpoint can be mounted on one only: use ReadWriteMany.
{{- end }}
{{- if and $training.trainJob.enabled (gt (int $training.trainJob.nodes) 1) (not (has "ReadWriteMany" $training.checkpoint.accessModes)) }}
- training.trainJob has several nodes, but training.checkpoint can be mounted on one only: use ReadWriteMany.
{{- end }}
{{- if and $training.jobSet.enabled $training.trainJob.enabled }}
- training.jobSet and training.trainJob are both on: a run is one of the two.
{{- end }}
{{- if and $training.trainJob.enabled (not $training.enabled) }}
- training.trainJob needs training.enabled=true.
{{- end }}
{{- if and $training.trainJob.enabled $training.priorityClassName }}
- training.priorityClassName can't be said of a TrainJob: set it in the runtime {{ $training.trainJob.runtime }}.
{{- end }}
{{- if and $training.jobSet.enabled (not $training.enabled) }}
- training.jobSet needs training.enabled=true.
{{- end }}
{{- if and $training.schedule (not $training.enabled) }}
- training.schedule needs training.enabled=true.
{{- end }}
{{- if has "ReadWriteOncePod" $training.checkpoint.accessModes }}
- training.checkpoint.accessModes: ReadWriteOncePod shuts out the training Job: use ReadWriteMany, or ReadWriteOnce on one node.
{{- end }}
{{- end -}}

{{/* Pods of one node ask the same of it; here two of them ask for what no node has. */}}
{{- define "learnback.validate.placement" -}}
{{- $root := . -}}
{{- $groups := list -}}
{{- range list "retraining" "reward" -}}
{{- $groups = append $groups (include "learnback.neighbours" (dict "root" $root "component" .)) | uniq -}}
{{- end -}}
{{- range $group := $groups -}}
{{- $asked := dict -}}
{{- range $name := fromJsonArray $group -}}
{{- range $label, $wanted := (index $.Values ($name | camelcase | untitle)).nodeSelector | default dict -}}
{{- if ne (get $asked $label | default $wanted) $wanted }}
- {{ $name }}.nodeSelector asks for {{ $label }}={{ $wanted }}, but its pods must share a node with others that ask for {{ get $asked $label }}: use one label, or PostgreSQL and volumes with ReadWriteMany.
{{- end }}
{{- $_ := set $asked $label $wanted -}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
