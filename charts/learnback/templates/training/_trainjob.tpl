{{/*
A run as a TrainJob: the pod of a Job, taken apart into what Kubeflow Trainer lets one say of its runtime's pods. torchrun's
options come from the runtime, as variables PET_*.
*/}}
{{- define "learnback.training.trainJob" -}}
{{- $training := .Values.training -}}
{{- $command := list "python3" "-m" "learnback.retraining.several" "--max-restarts=0" "${RUN_FOLDER}" -}}
{{- $pod := include "learnback.training.pod" (dict "root" . "command" $command) | fromYaml -}}
{{- $one := first $pod.spec.containers -}}
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  {{- include "learnback.training.metadata" . | nindent 2 }}
spec:
  suspend: {{ include "learnback.training.suspend" . }}
  activeDeadlineSeconds: {{ int64 $training.activeDeadlineSeconds }}
  runtimeRef:
    apiGroup: trainer.kubeflow.org
    kind: ClusterTrainingRuntime
    name: {{ $training.trainJob.runtime }}
  trainer:
    image: {{ $one.image }}
    command:
      {{- toYaml $one.command | nindent 6 }}
    env:
      {{- include "learnback.training.ownCpus" $one.env | nindent 6 }}
    numNodes: {{ $training.trainJob.nodes }}
    {{- if ne $training.device "gpu" }}
    # else torchrun would count the node's cores
    numProcPerNode: 1
    {{- end }}
    resourcesPerNode:
      {{- toYaml $one.resources | nindent 6 }}
  runtimePatches:
    - manager: learnback.dev/training
      trainingRuntimeSpec:
        template:
          spec:
            replicatedJobs:
              - name: node
                template:
                  spec:
                    template:
                      metadata:
                        {{- toYaml $pod.metadata | nindent 24 }}
                      spec:
                        {{- pick $pod.spec "serviceAccountName" "volumes" "imagePullSecrets" "securityContext" "nodeSelector" "affinity" "tolerations" | toYaml | nindent 24 }}
                        containers:
                          - name: node
                            volumeMounts:
                              {{- toYaml $one.volumeMounts | nindent 30 }}
                            securityContext:
                              {{- toYaml $one.securityContext | nindent 30 }}
{{- end -}}

{{/* The runtime calls the container node, and a variable from its resources names it. */}}
{{- define "learnback.training.ownCpus" -}}
{{- range . }}
{{- if .valueFrom }}
{{- with .valueFrom.resourceFieldRef }}
{{- $_ := set . "containerName" "node" }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml . }}
{{- end -}}
